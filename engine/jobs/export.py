"""The job that writes an export below the run's folder, where the app offers it for download.

exports/RUN-FORMAT-000.parquet, .csv.zip or .zip      recorded in the manifest, deleted by «Delete exports»
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from engine import files
from engine.datasets.base import Dataset
from engine.export import write as exports
from engine.export.material import ALL, Material
from engine.jobs.job import Job, Phase, Result, next_name
from engine.runs.run import Run

if TYPE_CHECKING:
    from engine.jobs.session import DataSession

FOLDER = "exports"


@dataclass(frozen=True)
class Export(Job):
    """A run in one of `engine.export.write.FORMATS`. `targets` are texts or keys of targets; none stands for all."""

    format: str
    targets: tuple[str, ...] = ()
    split: str = ALL
    pixels: bool = False

    kind: ClassVar[str] = "export"
    stages: ClassVar[tuple[str, ...]] = ("prepare", "export", "done")
    needs_model: ClassVar[bool] = False

    def check(self, run: Run, dataset: Dataset) -> Self:
        exports.format_named(self.format)
        Material.of(run, self.targets, self.split, dataset)
        return self

    def doing(self) -> str:
        return f"Exporting for {exports.FORMATS[self.format].title}" if self.format in exports.FORMATS else "Exporting"

    def ahead(self, run: Run, dataset: Dataset) -> tuple[Phase, ...]:
        return (Phase("export", 1),)  # alone, so that its own meter is all there is to tell

    def do(self, session: "DataSession") -> Result:
        run, journal = session.run, session.journal
        material = Material.of(run, self.targets, self.split, session.dataset)
        ending = exports.FORMATS[self.format].ending
        name = next_name(session.manifest.files, FOLDER, f"{run.id}-{self.format}", f"{run.id}-{self.format}")
        out = run.path / FOLDER / f"{name}{ending}"
        files.make_folder(out.parent)
        began, meter = time.monotonic(), journal.phase("export", material.rows)

        def report(done: int, of: int) -> None:
            meter.report(done)
            session.check_cancelled(done)

        size = exports.size(material, self.format, self.pixels)
        journal.save(size, lambda: exports.write(material, self.format, out, self.pixels, report))
        written = [out, *out.parent.glob(f"{out.name}.json")]
        journal.add_files({f"{FOLDER}/{path.name}": files.sha256_of(path) for path in written})
        journal.note(f"{out.name}: {out.stat().st_size:,} bytes in {time.monotonic() - began:.1f} s.")
        return Result(reports=(out.name,))


def of_run(run: Run, recorded: Any) -> list[str]:
    """Names of the exports that are there, newest last."""
    names = [name.partition("/")[2] for name in recorded if name.startswith(f"{FOLDER}/")]
    return [name for name in names if (run.path / FOLDER / name).is_file() and not name.endswith(".csv.json")]
