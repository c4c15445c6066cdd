"""The story of tools/mistake_story.py as a person clicks it, in Debian's chromium.

    mistake   Test images: the surest mistakes, one of them ticked and explained
    theme     Themes: its harmful themes; the one whose images have one label is left out, by retraining, and ticked
    labels    Triage, with keys: each ticked image is looked at, and what is of the kind gets its right label
    alike     Map: what lies nearest to one image of the theme, ticked, and gone through likewise
    again     Triage: training again with these corrections, beside the run before

Where a person would see that an image is of the kind, this knows it by its file. What was done stands in the run's
folder; each step leaves a picture where some are asked for.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Locator, Page

from engine.analysis import features, themes, trust
from engine.datasets.base import Dataset
from engine.runs import corrections
from engine.runs import run as runs
from engine.runs.run import Run
from engine.targets import TestImage
from tools.serve import chromium, server
from tools.tasks import GUARD, PATIENCE, Person, Task

THEMES = 4  # a side: as many as fit are two here, each a mixture
NEAREST = 150  # training images that lie the nearest to one of the theme, and are looked at after it
COLOURS = 160  # of a picture in the docs
VIEW = {"width": 1280, "height": 860}
DRAWN = "document.querySelector('.st-key-map-plot .js-plotly-plot .nsewdrag')"


@dataclass
class Walk:
    """What was met on the way: the `theme` and its `place` among the harmful ones, how many labels were set after the
    theme and after the map, the new run, and the clicks and seconds of each step."""

    theme: themes.Theme
    place: int
    of_theme: int = 0
    corrected: int = 0
    looked_at: int = 0
    after: str = ""
    tasks: list[Task] = field(default_factory=list)


class Album:
    """Pictures of what is in view, or of a part of it, as small as a page of docs needs them."""

    def __init__(self, page: Page, folder: Path | None):
        self.page, self.folder = page, folder

    def take(self, name: str, part: Locator | None = None) -> None:
        if self.folder is None:
            return
        self.page.wait_for_load_state("networkidle")
        path = self.folder / f"{name}.png"
        if part is None:
            self.page.screenshot(path=path)
        else:
            part.screenshot(path=path)
        Image.open(path).convert("RGB").quantize(COLOURS).save(path, optimize=True)


def walk(run: Run, dataset: Dataset, image: int, kind: np.ndarray, right: int, pictures: Path | None) -> Walk:
    """From the mistake `image` of the test set to the run with corrected labels. `kind` bool [N] says which training
    images are to have the label `right`."""
    with chromium() as browser:
        page = browser.new_context(viewport=VIEW).new_page()
        page.set_default_timeout(GUARD)
        album = Album(page, pictures)
        with server(run.root, page) as (url, _):
            person = Person(page, url, run.root)
            see_mistake(person, run, image, album)
            walked = see_theme(person, run, dataset, image, album)
            decide = Deciding(person, run, dataset, kind, right)
            walked.of_theme = set_theme_right(person, decide, walked, album)
            walked.corrected = set_alike_right(person, decide, walked, album)
            walked.looked_at = decide.looked_at
            walked.after = train_again(person, run, album)
            walked.tasks = person.tasks
    return walked


def compare(root: Path, run_id: str, pictures: Path) -> None:
    """The table of all runs, for the docs."""
    with chromium() as browser:
        page = browser.new_context(viewport=VIEW).new_page()
        page.set_default_timeout(GUARD)
        with server(root, page) as (url, _):
            page.goto(f"{url}/Compare_runs?run={run_id}&view=many")
            page.get_by_text("folded into").wait_for()
            Person(page, url, root).settled()
            Album(page, pictures).take("story-compare")


# -- the steps


def see_mistake(person: Person, run: Run, image: int, album: Album) -> None:
    page = person.page
    page.goto(f"{person.url}/Test_images?run={run.id}")
    page.get_by_role("heading", name="Test images", level=1).wait_for()
    person.settled()
    with person.task("the mistake, explained"):
        person.click(page.get_by_text("Misclassified only").first)
        box = page.locator(f".st-key-gallery-tests li[data-index='{image}'] input")
        box.wait_for()
        album.take("story-mistake")
        person.click(box)
        person.click(person.button(re.compile("^Explain 1 test image")))
        person.explains(run)
        assert person.target() == f"test:{image}", person.target()
        album.take("story-influence")


def see_theme(person: Person, run: Run, dataset: Dataset, image: int, album: Album) -> Walk:
    """Computes the features, finds the harmful theme whose images all have one label, and leaves it out."""
    page = person.page
    with person.task("its themes"):
        person.to_page("Themes")
        person.start(person.button("Compute the features"), run)
        person.computed(run, page.get_by_role("link", name="Look at the map"))
        person.to_page("Themes")
        assert person.target() == f"test:{image}", person.target()
        person.click(page.get_by_text("Grouping", exact=True))
        person.click(page.get_by_role("combobox", name="Themes a side"), then_settled=False)
        person.click(page.get_by_role("option", name=str(THEMES), exact=True))
        album.take("story-themes")
    theme, place = of_one_label(run, dataset, image)
    card = page.locator(f".st-key-theme-harmful-{place}")
    with person.task("the theme, left out by a retraining"):
        person.start(card.get_by_role("button", name="Leave this theme out"), run)
        back = page.get_by_role("link", name=re.compile("Back to the theme"))
        person.computed(run, back)
        person.click(back.first, then_settled=False)
        card.get_by_text(re.compile("Left out. Predicted change")).wait_for()
        person.settled()
        card.locator("li img").first.wait_for()
        page.set_viewport_size({**VIEW, "height": 1900})  # the whole card, and nothing before it
        album.take("story-theme", card)
        page.set_viewport_size(VIEW)
    return Walk(theme, place)


def of_one_label(run: Run, dataset: Dataset, image: int) -> tuple[themes.Theme, int]:
    """The strongest harmful theme whose images all have one label, as the page groups them, and its place."""
    record = run.manifest()
    ref = next(ref for ref in record.score_sets.targets() if ref.target == TestImage(image))
    found = themes.find(record, dataset, ref, features.read(run), count=THEMES)
    harmful = found.sides["harmful"].themes
    place = next(place for place, theme in enumerate(harmful, 1) if len(theme.labels) == 1)
    print("\n".join(themes.lines(found, dataset)), flush=True)
    return harmful[place - 1], place


@dataclass
class Deciding:
    """Whoever goes through what is ticked, on *Triage*, with two keys: the number of the right label, and n."""

    person: Person
    run: Run
    dataset: Dataset
    kind: np.ndarray
    right: int
    looked_at: int = 0

    def through_ticked(self, album: Album, name: str) -> int:
        """From the bar of ticks to the end of the queue; how many labels are other ones by then."""
        page = self.person.page
        self.person.click(self.person.button("Relabel"))
        self.person.click(page.get_by_role("link", name="Decide on them one by one, on Triage"), then_settled=False)
        card = page.locator(".triage")
        card.locator(".alike img").first.wait_for()
        self.person.settled()
        if name:
            album.take(name)
        at, of, title = 0, 1, ""
        while at < of:
            before = title
            while title == before or not title.startswith("train:"):  # it is being read
                title = card.locator("h2").inner_text()
                page.wait_for_timeout(20)
            at, of = map(int, re.findall(r"\d+", card.locator(".count").inner_text().replace(",", ""))[:2])
            self.press(int(title.removeprefix("train:")))
        self.looked_at = of
        page.get_by_text(re.compile(f"{of:,} of {of:,} looked at")).wait_for()
        self.person.settled()
        return len(corrections.read(self.run).labels)

    def press(self, index: int) -> None:
        wrong = self.kind[index] and self.dataset.train_labels[index] != self.right
        decided = index in corrections.read(self.run).labels
        self.person.page.keyboard.press(str(self.right + 1) if wrong and not decided else "n")
        self.person.tasks[-1].clicks += 1


def set_theme_right(person: Person, decide: Deciding, walked: Walk, album: Album) -> int:
    card = person.page.locator(f".st-key-theme-harmful-{walked.place}")
    with person.task("the labels of the theme"):
        person.click(card.get_by_role("button", name=re.compile("^Tick these")))
        return decide.through_ticked(album, "story-triage")


def set_alike_right(person: Person, decide: Deciding, walked: Walk, album: Album) -> int:
    """What lies nearest to the theme's most central image."""
    page = person.page
    with person.task("what is alike, on the map"):
        person.to_page("Map")
        page.wait_for_function(DRAWN)
        person.click(page.locator(".st-key-map-by-numbers summary"))
        person.click(page.get_by_text("the image with this number"))
        person.fill(page.get_by_role("spinbutton", name=re.compile("^training image")), str(walked.theme.images[0]))
        person.fill(page.get_by_role("spinbutton", name="The nearest"), str(NEAREST))
        if not person.has(page.get_by_text(re.compile("nearest to train:"))):  # Enter has sent it, perhaps
            person.click(page.get_by_role("button", name="Choose the nearest"))
        page.get_by_text(re.compile(f"{NEAREST} images, nearest to train:")).wait_for()
        person.settled()
        page.locator(".st-key-map-plot .js-plotly-plot").scroll_into_view_if_needed()
        album.take("story-map")
        person.click(person.button(re.compile("^Tick all")))
        return decide.through_ticked(album, "")


def train_again(person: Person, run: Run, album: Album) -> str:
    page, before = person.page, {each.id for each in runs.list_runs(run.root)}
    with person.task("trained again with the corrections, and compared"):
        person.start(person.button("Train again with these corrections"))
        (after,) = [each for each in runs.list_runs(run.root) if each.id not in before]
        person.computed(after, page.get_by_role("link", name="Compare it with the run before the corrections"))
        person.click(
            page.get_by_role("link", name="Compare it with the run before the corrections"), then_settled=False
        )
        heading = page.get_by_role("heading", name="Trained again with corrections")
        heading.wait_for(timeout=PATIENCE)
        person.settled()
        heading.evaluate("heading => heading.scrollIntoView({block: 'start'})")
        page.wait_for_timeout(500)  # for its pictures, which are fetched when they come into view
        album.take("story-after")
    return after.id


def retrained(run: Run, theme: themes.Theme) -> dict:
    """The report of the retraining without these images."""
    images = sorted(theme.images.tolist())
    return next(report for report in trust.what_ifs(run.manifest()) if report["left_out"] == images)
