"""What a person says of a run: training images ticked, notes on images and on the run. No torch.

`outputs/<run_id>/notes.json`, apart from what was computed: people change it at any time, also while a
job works on the run, so it needs no lock of the run and stands under no checksum.
"""

import dataclasses
import threading
from dataclasses import dataclass, field

from engine import files
from engine.errors import ConfigError, IntegrityError
from engine.runs.run import Run

LONGEST = 10_000  # characters of a note

RUN = "run"  # the name of the note on the run as a whole

_mutex = threading.Lock()  # of reading, changing and writing: two tabs tick at once


@dataclass(frozen=True)
class Notes:
    """`ticked` are training indices in order; `notes` a text by `RUN` or training index."""

    ticked: tuple[int, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)

    def of(self, what: int | str) -> str:
        return self.notes.get(str(what), "")


def read(run: Run) -> Notes:
    """Raises `IntegrityError` where the file is no notes of a run."""
    path = run.path / "notes.json"
    if not path.exists():
        return Notes()
    remedy = "Correct it, or delete the file: the run's results do not depend on it."
    found = files.read_json(path, remedy)
    try:
        ticked, notes = found["ticked"], found["notes"]
        whole = all(type(i) is int and i >= 0 for i in ticked) and all(
            (what == RUN or what.isdecimal()) and isinstance(text, str) for what, text in notes.items()
        )
    except (TypeError, KeyError, AttributeError):
        whole = False
    if not whole:
        raise IntegrityError(f"{path} does not hold notes of a run.", remedy)
    return Notes(tuple(sorted(set(ticked))), notes)


def tick(run: Run, changes: dict[int, bool], images: int) -> None:
    """Ticks (True) and unticks training images, each an index below `images`."""
    if outside := [i for i in changes if not 0 <= i < images]:
        raise ConfigError(f"There is no training image {outside[0]}.", f"They are numbered from 0 to {images - 1}.")
    with _mutex:
        kept = read(run)
        ticked = set(kept.ticked) - changes.keys() | {i for i, on in changes.items() if on}
        _write(run, dataclasses.replace(kept, ticked=tuple(sorted(ticked))))


def write_note(run: Run, what: int | str, text: str) -> None:
    """The note on a training image, or on the whole run (`RUN`); an empty text deletes it."""
    text = text.strip()
    if len(text) > LONGEST:
        raise ConfigError(f"The note has {len(text):,} characters.", f"Shorten it to {LONGEST:,}.")
    with _mutex:
        kept = read(run)
        notes = {name: said for name, said in kept.notes.items() if name != str(what)}
        _write(run, dataclasses.replace(kept, notes=notes | ({str(what): text} if text else {})))


def _write(run: Run, notes: Notes) -> None:
    Run.open(run.root, run.id)  # deleted in another tab, perhaps
    files.write_json(run.path / "notes.json", dataclasses.asdict(notes))
