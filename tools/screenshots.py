"""Pictures of every page, light and dark, on a real run: `make screenshots`.

docs/influence.png stands in the README; the others go to a folder given as argument, to be
looked at.
"""

import sys
import tempfile
from pathlib import Path

from engine import config, runs, work
from tools.serve import ROOT, chromium, server

PAGES = ("", "Set_up_a_run", "Live", "Influence", "Trust", "Find_bad_labels", "Runs_and_storage")


def main() -> None:
    look = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        root = runs.outputs_root(folder)
        run = runs.Run.create(root, config.preset("sample"))
        with run.locked():
            work.execute(run)
        for scheme in ("light", "dark"):
            for width in (1440, 900):
                page = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme=scheme)
                with server(root, page) as (url, _):
                    for name in PAGES:
                        page.goto(f"{url}/{name}?run={run.id}&target=test:7.loss&k=12")
                        page.wait_for_selector("h1")
                        page.wait_for_timeout(3000)
                        if name == "Influence" and scheme == "light" and width == 1440:
                            page.screenshot(path=ROOT / "docs" / "influence.png")
                        if look is not None:
                            look.mkdir(exist_ok=True)
                            # The page scrolls inside the window, so a tall window shows all of it.
                            page.set_viewport_size({"width": width, "height": 1900})
                            page.wait_for_timeout(800)
                            page.screenshot(path=look / f"{name or 'Overview'}-{scheme}-{width}.png")
                            page.set_viewport_size({"width": width, "height": 1000})
                page.close()


if __name__ == "__main__":
    main()
