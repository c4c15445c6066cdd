"""Pictures of every page, light and dark, on a desk, a small and a very small screen, on real runs: `make screenshots`.

Those named in `KEPT` stand in the README; all go to a folder given as argument, to be looked at.
"""

import itertools
import sys
import tempfile
from pathlib import Path

from engine import config
from engine.jobs import execute as work
from engine.jobs.validation import Validate
from engine.runs import notes
from engine.runs import run as runs
from tools.serve import ROOT, chromium, server

# What each page shows of the run; most of it is in the page's own link.
PAGES = {
    "Overview": "",
    "Data": "",
    "Set_up_a_run": "",
    "Live": "",
    "Influence": "target=test:7.loss&pin=test:7.loss,test:4.loss&k=12",
    "Training_images": "view=matrix&group=Test+images+of+Coat&label=Pullover",
    "Test_images": "wrong=1",
    "Compare_runs": "other=second",
    "Trust": "",
    "Find_bad_labels": "",
    "Runs_and_storage": "",
}
KEPT = {"Influence": 1000, "Training_images": 1100, "Test_images": 1000}  # and their height in pixels
SECOND = {"recipe.epochs": 3, "recipe.seed": 1, "targets": tuple(f"test:{i}" for i in range(4, 8))}


def made(root: Path) -> runs.Run:
    """The sample with a second run of it to compare with, some ticks and a validation."""
    second = runs.Run.create(root, config.preset("sample").replace(**SECOND), "second")
    run = runs.Run.create(root, config.preset("sample"))
    for each in (second, run):
        with each.lock():
            work.execute(each)
    with run.lock():
        work.execute(run, Validate(8, (0.01,), 0))
    notes.tick(run, {int(i): True for i in run.scores().matrix("loss-000")[7].argsort()[-3:]}, 6000)
    return run


def main() -> None:
    look = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        root = runs.outputs_root(folder)
        run = made(root)
        for scheme, width in itertools.product(("light", "dark"), (1440, 1024, 390)) if look else [("light", 1440)]:
            page = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme=scheme)
            with server(root, page) as (url, _):
                for name, query in PAGES.items():
                    kept = name in KEPT and (scheme, width) == ("light", 1440)
                    if kept or look:
                        page.set_viewport_size({"width": width, "height": KEPT.get(name, 1000)})
                        page.goto(f"{url}/{name if name != 'Overview' else ''}?run={run.id}&{query}")
                        page.wait_for_selector("h1")
                        page.wait_for_timeout(4000)
                    if kept:
                        page.screenshot(path=ROOT / "docs" / f"{name.lower().replace('_', '-')}.png")
                    if look:
                        look.mkdir(exist_ok=True)
                        # The page scrolls inside the window, so a tall window shows all of it.
                        page.set_viewport_size({"width": width, "height": 2600 if width > 400 else 5000})
                        page.wait_for_timeout(800)
                        page.screenshot(path=look / f"{name}-{scheme}-{width}.png")
            page.close()


if __name__ == "__main__":
    main()
