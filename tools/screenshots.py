"""Pictures of every page, light and dark, on a desk, a small and a very small screen, on real runs: `make screenshots`.

Those that name a file in `docs/` stand in the README; all go to a folder given as argument, to be looked at. One run is
of a folder of drawings (`tools.drawings`), with what is proposed for it, the others are of the sample.
"""

import itertools
import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from playwright.sync_api import Page

from engine import config, proposal
from engine.config import RunConfig
from engine.datasets import registry as datasets
from engine.jobs import execute as work
from engine.jobs.validation import Validate
from engine.report import command as reports
from engine.runs import notes
from engine.runs import run as runs
from engine.runs.run import Run
from tools import drawings
from tools.serve import ROOT, chromium, drawn, server

DARK = "matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light'"


class Shot(NamedTuple):
    """A page as its link shows it; `kept`: the file in `docs/`, and the height in pixels of its part."""

    page: str
    of: str = "sample"  # whose run: the sample's or the folder's
    query: str = ""
    kept: str = ""
    height: int = 1000


SHOTS = (
    Shot(""),
    Shot("Data", "folder"),
    Shot("Set_up_a_run", "folder"),
    Shot("Live"),
    Shot("Influence", "folder", "k=12", "influence.png"),
    Shot("Influence", "sample", "target=test:605.loss&pin=test:605.loss,test:0.loss&k=12"),
    Shot(
        "Training_images",
        "sample",
        "view=matrix&group=Test+images+of+Shirt&label=Pullover",
        "training-images.png",
        1100,
    ),
    Shot("Test_images", "sample", "wrong=1", "test-images.png"),
    Shot("Compare_runs", "sample", "other=second"),
    Shot("Trust"),
    Shot("Find_bad_labels", "folder"),
    Shot("Runs_and_storage"),
    Shot("Glossary"),
)
REPORTED = "test:605.loss"  # the target of the report's picture
SECOND = {"recipe.seed": 1, "targets": ("test:605", "test:119", "test:0", "test:all")}


def trained(root: Path, settings: RunConfig, name: str | None = None) -> Run:
    run = Run.create(root, settings, name)
    with run.lock():
        work.execute(run)
    return run


def made(root: Path, folder: Path) -> dict[str, Run]:
    """The sample with a second run of it to compare with, some ticks and a validation; and a run of the drawings."""
    trained(root, config.preset("sample").replace(**SECOND), "second")
    run = trained(root, config.preset("sample"))
    with run.lock():
        work.execute(run, Validate(8, (0.01,), 0))
    notes.tick(run, {int(i): True for i in run.scores().matrix("loss-000")[7].argsort()[-3:]}, 6000)
    data = datasets.load(f"folder:{drawings.write(folder / 'drawings')}")
    return {"sample": run, "folder": trained(root, proposal.for_dataset(data).config, "drawings")}


def show(page: Page, url: str, shot: Shot, run: Run, height: int) -> None:
    page.set_viewport_size({"width": page.viewport_size["width"], "height": height})  # type: ignore[index]
    of_data = f"&data={run.manifest().config.dataset}&dataset={run.manifest().config.dataset}"
    page.goto(f"{url}/{shot.page}?run={run.id}{of_data if shot.of == 'folder' else ''}&{shot.query}")
    drawn(page)
    page.wait_for_timeout(2000)  # charts move into their place


def show_report(page: Page, folder: Path, run: Run, kept: bool, look: Path | None) -> None:
    """The report of one target, its head into `docs/`, the whole to be looked at."""
    file = folder / "report.html"
    if not file.exists():
        reports.write(run, str(file), [REPORTED])
    page.goto(file.as_uri())
    if kept:
        page.set_viewport_size({"width": 1180, "height": 1240})
        page.screenshot(path=ROOT / "docs" / "report.png")
    if look:
        width = page.viewport_size["width"]  # type: ignore[index]
        page.screenshot(path=look / f"report-{width}-{page.evaluate(DARK)}.png", full_page=True)


def main() -> None:
    look = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        os.environ["REPLAY_DATA_DIR"] = f"{folder}/data"
        root = runs.outputs_root(Path(folder) / "outputs")
        of = made(root, Path(folder))
        for scheme, width in itertools.product(("light", "dark"), (1440, 1024, 390)) if look else [("light", 1440)]:
            page = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme=scheme)
            with server(root, page) as (url, _):
                for number, shot in enumerate(SHOTS):
                    kept = shot.kept and (scheme, width) == ("light", 1440)
                    if kept or look:
                        show(page, url, shot, of[shot.of], shot.height)
                    if kept:
                        page.screenshot(path=ROOT / "docs" / shot.kept)
                    if look:
                        look.mkdir(exist_ok=True)
                        # The page scrolls inside the window, so a tall window shows all of it.
                        page.set_viewport_size({"width": width, "height": 2600 if width > 400 else 5000})
                        page.wait_for_timeout(800)
                        page.screenshot(path=look / f"{number:02d}-{shot.page or 'Overview'}-{scheme}-{width}.png")
                show_report(page, Path(folder), of["sample"], (scheme, width) == ("light", 1440), look)
            page.close()


if __name__ == "__main__":
    main()
