"""From a real folder to the gallery, as a person does it: `python -m tools.story`.

Makes a folder of Google's emoji (`tools.emoji`) with broken, duplicated, rotated and mislabelled files, starts the app
on empty folders, and drives it in Debian's chromium: uploads a zip of the folder on *Data*, reads counts and problems
there, sets up a run with what is proposed, starts it, watches it, looks at the first gallery, and at *Find bad labels*,
where the mislabelled files should be. Then the folder once more, by its path. Prints Markdown with the times.
"""

import argparse
import re
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import psutil
from playwright.sync_api import Page, expect

from engine import device
from tools import emoji
from tools.serve import PATIENCE, chromium, idle, server


def metrics(page: Page) -> dict[str, str]:
    """What the figures on a page say, by their labels."""
    shown = page.locator('[data-testid="stMetric"]')
    texts = [text.split("\n") for text in shown.evaluate_all("all => all.map(one => one.innerText)")]
    lines = [[part for part in text if part.strip()] for text in texts]
    return {line[0]: line[-1] for line in lines if line}


def files_of(page: Page, key: str) -> list[str]:
    """Names of files in a gallery, tile by tile, as its pictures' texts have them."""
    pictures = page.locator(f".st-key-gallery-{key} li img")
    expect(pictures.first).to_be_visible(timeout=PATIENCE)
    alts = pictures.evaluate_all("all => all.map(one => one.alt)")
    return [alt.rpartition(", ")[2] for alt in alts]


# -- the steps


def add_archive(page: Page, url: str, archive: Path, side: str = "") -> None:
    """`side` as the form has it; empty: chosen from the files."""
    page.goto(f"{url}/Data")
    idle(page)
    page.get_by_text("An archive from yours").click()
    idle(page)  # a file that is given to a form while it is drawn is lost with it
    page.locator('input[type="file"]').set_input_files(archive)
    expect(page.get_by_role("button", name=f"Remove {Path(archive).name}")).to_be_visible(timeout=PATIENCE)
    _set_side(page, side)
    _add(page)


def add_folder(page: Page, url: str, folder: Path, side: str = "") -> None:
    page.goto(f"{url}/Data")
    idle(page)
    opener = page.get_by_text("Add a data set", exact=True)
    place = page.get_by_role("textbox", name="Folder", exact=True)
    if not place.is_visible():
        opener.click()
    place.fill(str(folder))
    place.press("Enter")
    _set_side(page, side)
    _add(page)


def _set_side(page: Page, side: str) -> None:
    if side:
        idle(page)
        page.get_by_text("How files become images").click()
        field = page.get_by_role("textbox", name="Side in pixels")
        field.fill(side)
        field.press("Enter")


def _add(page: Page) -> None:
    button = page.get_by_role("button", name="Add", exact=True)
    expect(button).to_be_enabled(timeout=PATIENCE)
    idle(page)
    before = page.url  # that of another data set, perhaps, which is a folder, too
    button.click()
    expect(page).not_to_have_url(before, timeout=PATIENCE)
    expect(page).to_have_url(re.compile("data=folder"), timeout=PATIENCE)
    idle(page)


def problems(page: Page) -> dict[str, int]:
    """How many of each kind the page *Data* lists."""
    titles = page.locator('[data-testid="stExpander"] summary').all_inner_texts()
    found = (re.search(r"([A-Z][^\n:]+): ([\d,]+)$", title) for title in titles)
    return {match[1]: int(match[2].replace(",", "")) for match in found if match}


def start_proposed(page: Page) -> str:
    """From the data set on *Data* to the page *Live* of a run with what is proposed for it; its id."""
    page.get_by_role("link", name="Set up a run with it").click()
    expect(page.get_by_role("heading", name="Set up a run", level=1)).to_be_visible()
    start = page.get_by_role("button", name="Start the run")
    expect(start).to_be_enabled(timeout=PATIENCE)
    idle(page)
    start.click()
    expect(page.get_by_role("heading", name="Live", level=1)).to_be_visible()
    expect(page).to_have_url(re.compile("run="))
    return parse_qs(urlsplit(page.url).query)["run"][0]


def first_gallery(page: Page) -> list[str]:
    """Waits on *Live* until the run has finished, and opens *Influence*; the files of the most helpful images."""
    expect(page.get_by_text("Finished: the scores are ready.")).to_be_visible(timeout=PATIENCE)
    page.get_by_role("link", name="Look at the influence").click()
    expect(page.get_by_role("heading", name="Influence", level=1)).to_be_visible()
    files_of(page, "harmful")
    return files_of(page, "helpful")


def suspects(page: Page, url: str, run: str) -> list[str]:
    """Files of the first page of *Find bad labels*, by the model's loss."""
    page.goto(f"{url}/Find_bad_labels?run={run}")
    files_of(page, "suspects")
    page.get_by_text("Loss on the label given").click()
    expect(page.get_by_text("the lowest probability")).to_be_visible()
    idle(page)
    return files_of(page, "suspects")


class Row(NamedTuple):
    """A step: its seconds, those since the first began, and those of the processor that the server took for it."""

    what: str
    seconds: float
    since: float
    cpu: float


class Clock:
    """Measures steps, of a server by the number of its process."""

    def __init__(self, server: int) -> None:
        self.began, self.server = time.monotonic(), psutil.Process(server)
        self.rows: list[Row] = []

    @contextmanager
    def step(self, what: str):
        before, cpu = time.monotonic(), self.cpu()
        yield
        now = time.monotonic()
        self.rows.append(Row(what, now - before, now - self.began, self.cpu() - cpu))
        print(f"{what}: {now - before:.1f} s", file=sys.stderr, flush=True)

    def cpu(self) -> float:
        times = self.server.cpu_times()
        return times.user + times.system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, help="emoji of each class; all where it is left out")
    parser.add_argument("--mislabelled", type=int, default=60)
    parser.add_argument("--pictures", metavar="DIR", help="write what each page shows there")
    call = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        folder = Path(name)
        root = emoji.write(folder / "emoji", call.most, skins=True)
        spoiled = emoji.spoil(root, call.mislabelled)
        archive = Path(shutil.make_archive(str(folder / "emoji"), "zip", root))
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.set_default_timeout(60_000)

        def picture(step: str) -> None:
            if call.pictures:
                Path(call.pictures).mkdir(exist_ok=True)
                page.screenshot(path=Path(call.pictures) / f"{step}.png")

        with server(folder / "outputs", page, REPLAY_DATA_DIR=str(folder / "data")) as (url, process):
            page.goto(url)
            idle(page)
            clock = Clock(process.pid)
            with clock.step("*Data*: the zip is uploaded, unpacked and decoded"):
                add_archive(page, url, archive)
            counts, found = metrics(page), problems(page)
            picture("data")
            with clock.step("*Set up a run* with what is proposed, until *Live*"):
                run = start_proposed(page)
            picture("live")
            with clock.step("training and replay, until the first gallery on *Influence*"):
                files = first_gallery(page)
            total = clock.rows[-1].since
            picture("influence")
            with clock.step("*Find bad labels*"):
                suspected = suspects(page, url, run)
            picture("find-bad-labels")
            with clock.step("*Data*: the same folder, by its path"):
                add_folder(page, url, root)
            assert metrics(page) == counts and problems(page) == found, "path and archive are not the same"
    moved = set(spoiled["moved"])
    print(f"{device.describe()}; emoji: {counts}; problems: {found}\n")
    print("| step | seconds | since the empty app | the server's, on the processor |\n|---|---|---|---|")
    for row in clock.rows:
        print(f"| {row.what} | {row.seconds:.1f} | {row.since:.1f} | {row.cpu:.1f} |")
    hits = sum(file in moved for file in suspected)
    print(
        f"\nFrom the empty app to the first gallery: {total:.0f} s. {hits} of the first {len(suspected)} suspects by "
        f"loss are among the {len(moved)} mislabelled files. The first helpful images: {', '.join(files[:3])}."
    )


if __name__ == "__main__":
    main()
