"""What a person comes to do, done in a real browser: `make tasks`, or `python -m tools.tasks --app DIR --json FILE`.

    1  run the sample, and be looking at the first explained mistake
    2  explain two further mistakes, and be looking at the images behind each
    3  tick 300 likely wrong labels by a rule, correct them, train again, and compare (the preset sample-noisy's data)
    4  take away what was found: links and tables (a report of one file is issue 16)

Each is done by the controls that there are, without a link that is known beforehand and without reading time. Printed
are the clicks (a key pressed in a field counts as one), the seconds from the first click to the end, and how many of
them the machine computed. `--app DIR` drives another checkout, as far back as commit f4cbe6d, which had no rule to tick
by and no labels of the model's to accept: what such a checkout cannot do is done one by one, or said.

    git worktree add /tmp/before f4cbe6d && python -m tools.tasks --app /tmp/before
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from playwright.sync_api import Locator, Page

from engine import device
from engine.datasets import registry as dataset_registry
from engine.runs import run as runs
from engine.runs.run import Run
from engine.targets import Target, TestImage
from tools.serve import ROOT, chromium, idle, server

NOISY = "fashion-mnist-sample-noisy"
WRONG_LABELS = 300  # in the noisy sample, and as many are ticked
GUARD = 60_000  # ms for what a page shows
PATIENCE = 900_000  # ms for a job


@dataclass
class Task:
    """What a task took; `missing` is what the checkout could not do."""

    name: str
    clicks: int = 0
    seconds: float = 0.0
    computing: float = 0.0  # of them
    missing: list[str] = field(default_factory=list)
    promised: str = ""  # what the page said before of the time


class Person:
    """Whoever sits before the browser: every click is counted, and a task's time runs from its first to its end."""

    def __init__(self, page: Page, url: str, root: Path):
        self.page, self.url, self.root = page, url, root
        self.tasks: list[Task] = []
        self.done_before = 0  # jobs of the run that is worked on

    @contextmanager
    def task(self, name: str):
        """Prints what it took at its end."""
        task = Task(name)
        self.tasks.append(task)
        began = time.perf_counter()
        yield task
        task.seconds = time.perf_counter() - began
        print(as_row(task), flush=True)

    # -- acting

    def click(self, what: Locator, then_settled: bool = True) -> None:
        self.tasks[-1].clicks += 1
        what.click()
        if then_settled:
            self.settled()

    def settled(self) -> None:
        """The script has ended, twice in a row: a click that is on its way would begin it."""
        for _ in range(2):
            idle(self.page)
            self.page.wait_for_timeout(50)

    def to_page(self, title: str) -> None:
        link = self.page.locator('[data-testid="stSidebar"]').get_by_role("link", name=title, exact=True)
        self.click(link, then_settled=False)
        self.page.get_by_role("heading", name=title, exact=True, level=1).wait_for()
        self.settled()

    def button(self, name: str | re.Pattern, *others: str | re.Pattern) -> Locator:
        """The first of these that the page has."""
        found = [self.page.get_by_role("button", name=each) for each in (name, *others)]
        return first_of(found).first

    def has(self, what: Locator) -> bool:
        return what.count() > 0 and what.first.is_visible()

    def fill(self, field: Locator, text: str) -> None:
        """A click into the field, and the text with Enter."""
        self.tasks[-1].clicks += 2
        field.fill(text)
        field.press("Enter")
        self.settled()

    # -- waiting for the machine

    def start(self, button: Locator, run: Run | None = None) -> None:
        """A click on what starts work of a run, which leads to *Live*."""
        self.done_before = done_jobs(run) if run else 0
        self.click(button, then_settled=False)
        self.page.get_by_role("heading", name="Live", level=1).wait_for()

    def computed(self, run: Run, shown: Locator) -> None:
        """Until what was started is done and the page shows what came of it."""
        began = time.perf_counter()
        while done_jobs(run) == self.done_before:
            assert run.status not in ("failed", "cancelled", "interrupted"), run.status
            self.page.wait_for_timeout(100)
        self.tasks[-1].computing += time.perf_counter() - began
        shown.first.wait_for(timeout=PATIENCE)
        self.settled()

    # -- looking

    def target(self) -> str:
        """The target in view, such as test:605."""
        found = re.search(r"target=([^&]+)", self.page.url)
        assert found, self.page.url
        return found[1].replace("%3A", ":").rpartition(".")[0]

    def sees_influence(self) -> None:
        self.page.locator(".st-key-gallery-harmful img").first.wait_for()
        self.settled()

    def explains(self, run: Run) -> None:
        """The images that are ticked on *Test images*, up to their pictures on *Influence*."""
        self.start(self.button("Explain these"), run)
        look = self.page.get_by_role("link", name="Look at the influence")
        self.computed(run, look)
        self.click(look.first, then_settled=False)
        self.sees_influence()

    def choose_target(self, run: Run, text: str) -> None:
        """On *Influence*: by its picture where there is a strip of them, else from the list."""
        title = Target.parse(text).title(dataset_registry.load(run.manifest().config.dataset))
        strip = self.page.get_by_role("listbox").get_by_role("option", name=title)
        if not self.has(strip):
            self.click(self.page.get_by_role("combobox", name="Target").first, then_settled=False)
            strip = self.page.get_by_role("option", name=title)
        before = self.page.url
        self.click(strip.first)
        self.page.wait_for_function("before => location.href !== before", arg=before)
        self.sees_influence()


def first_of(found: list[Locator]) -> Locator:
    either, *others = found
    for other in others:
        either = either.or_(other)
    return either


def done_jobs(run: Run) -> int:
    """How often the run's log says that its work was finished."""
    log = run.path / "events.jsonl"
    return log.read_text(encoding="utf-8").count('"kind": "finished"') if log.is_file() else 0


def mistakes(run: Run) -> list[int]:
    """Test images that the run's model gives another label."""
    labels = dataset_registry.load(run.manifest().config.dataset).test_labels
    return np.flatnonzero(np.load(run.path / "model" / "test_logits.npy").argmax(1) != labels).tolist()


def is_mistake(run: Run, text: str) -> bool:
    target = Target.parse(text)
    return isinstance(target, TestImage) and target.index in mistakes(run)


# -- the tasks


def first_mistake(person: Person) -> Run:
    """From the first page to the images behind a mistake; targets that are none are passed by, one after the other."""
    page = person.page
    page.goto(person.url)
    page.get_by_role("button", name="Run the sample").wait_for()
    person.settled()
    promise = page.get_by_text("It takes")
    if person.has(promise):
        page.get_by_text("on this machine").wait_for()  # it is measured
    promised = promise.first.inner_text() if person.has(promise) else ""
    with person.task("run the sample, to the first explained mistake") as task:
        task.promised = promised
        person.start(page.get_by_role("button", name="Run the sample"))
        (run,) = runs.list_runs(person.root)
        look = page.get_by_role("link", name="Look at the influence")
        person.computed(run, look)
        person.click(look.first, then_settled=False)
        person.sees_influence()
        for text in run.manifest().config.targets:
            if is_mistake(run, person.target()):
                break
            if text != person.target():
                person.choose_target(run, text)
        assert is_mistake(run, person.target())
    return run


def two_mistakes(person: Person, run: Run) -> None:
    page = person.page
    with person.task("explain two mistakes, and look at the images behind each"):
        person.to_page("Test images")
        wrong = page.get_by_text("Misclassified only")
        person.click(wrong.first)
        explained = set(run.manifest().config.targets)
        tiles = page.locator(".st-key-gallery-tests li")
        tiles.first.wait_for()
        shown = [int(index) for index in tiles.evaluate_all("tiles => tiles.map(tile => tile.dataset.index)")]
        two = [index for index in shown if f"test:{index}" not in explained][:2]
        for index in two:
            person.click(page.locator(f".st-key-gallery-tests li[data-index='{index}'] input"))
        if not person.has(person.button("Explain these")):
            person.click(person.button(re.compile("^Explain 2 test images")))
        person.explains(run)
        for index in two:
            if person.target() != f"test:{index}":
                person.choose_target(run, f"test:{index}")


def wrong_labels(person: Person, run: Run) -> None:
    page = person.page
    page.goto(f"{person.url}/Find_bad_labels?run={run.id}")
    page.get_by_role("heading", name="Find bad labels", level=1).wait_for()
    page.locator(".st-key-gallery-suspects li").first.wait_for()
    person.settled()
    with person.task(f"{WRONG_LABELS} wrong labels ticked by a rule, corrected, trained again, compared") as task:
        by_loss = page.get_by_role("radio", name=re.compile("^Loss")).or_(page.get_by_role("button", name="Loss"))
        if by_loss.first.get_attribute("aria-checked") != "true":
            person.click(by_loss.first)
        if person.has(person.button("Tick by a rule")):
            person.click(person.button("Tick by a rule"))
            person.fill(page.get_by_role("spinbutton", name="To number"), str(WRONG_LABELS))
            person.click(page.get_by_role("button", name=re.compile(f"^Tick {WRONG_LABELS} images")))
            page.keyboard.press("Escape")
            person.settled()
        else:
            task.missing.append("a rule to tick by")
            tick_one_by_one(person, WRONG_LABELS)
        if person.has(person.button("Relabel")):
            person.click(person.button("Relabel"))
            person.click(person.button("Accept the model's labels"))
            page.keyboard.press("Escape")
            person.settled()
        else:
            task.missing.append("labels of the model's: they are left out")
        person.start(person.button(re.compile("rain again"), "Check by retraining"), run)
        compare(person, run, task)


def tick_one_by_one(person: Person, number: int) -> None:
    page, ticked = person.page, 0
    while True:
        boxes = page.locator(".st-key-gallery-suspects li input")
        for at in range(min(boxes.count(), number - ticked)):
            person.click(boxes.nth(at))
            ticked += 1
        if ticked == number:
            return
        slider, first = page.get_by_role("slider"), page.locator(".st-key-gallery-suspects li").first
        before = first.get_attribute("data-index")
        if person.has(slider):
            slider.first.press("ArrowRight")
            person.tasks[-1].clicks += 1
        else:
            person.click(page.get_by_role("button", name="Next page"))
        page.wait_for_function(
            "before => document.querySelector('.st-key-gallery-suspects li')?.dataset.index !== before", arg=before
        )
        person.settled()


def compare(person: Person, run: Run, task: Task) -> None:
    """The retraining beside the run: on *Live* itself where it is shown there, else on *Trust*."""
    page = person.page
    here = page.get_by_text("Test accuracy before")
    done = page.get_by_text(re.compile("^Finished"))
    person.computed(run, first_of([here, done]))
    if not person.has(here):
        task.missing.append("the result where the work ended")
        person.to_page("Trust")
        page.get_by_text(re.compile("Retrained|retraining", re.IGNORECASE)).first.wait_for()


def a_report(person: Person, run: Run) -> None:
    """Links and tables, each of which a person has to put together."""
    page = person.page
    page.goto(f"{person.url}/Influence?run={run.id}")
    person.sees_influence()
    with person.task("a report of what was done, from links and tables") as task:
        save(person, person.button("List as CSV"))
        person.click(person.button("Copy link"))
        person.to_page("Find bad labels")
        save(person, person.button("All suspects as CSV"))
        report = page.get_by_role("button", name=re.compile("Report"))
        if not person.has(report):
            task.missing.append("one file with all of it")


def save(person: Person, button: Locator) -> None:
    button.scroll_into_view_if_needed()
    with person.page.expect_download(timeout=PATIENCE) as download:
        person.click(button, then_settled=False)
    assert Path(download.value.path()).stat().st_size > 0
    person.settled()


# -- the run with wrong labels, which is there before the person comes


def make_noisy(app: Path, root: Path) -> Run:
    words = ["run", "--set", f"dataset={NOISY}", "--targets", "test:all", "--mode", "disk", "--outputs", str(root)]
    subprocess.run([sys.executable, "-m", "engine", *words], cwd=app, check=True, capture_output=True)
    (run,) = runs.list_runs(root)
    return run


# -- what is printed


def as_row(task: Task) -> str:
    lacks = f"; without {', '.join(task.missing)}" if task.missing else ""
    said = f"; promised: «{task.promised}»" if task.promised else ""
    return f"| {task.name}{lacks}{said} | {task.clicks} | {task.seconds:.1f} | {task.computing:.1f} |"


def do(app: Path, which: set[int], folder: Path) -> list[Task]:
    """The tasks of these numbers, each on an outputs folder as its person finds it."""
    tasks: list[Task] = []
    with chromium() as browser:
        page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
        page.set_default_timeout(GUARD)
        parts: tuple[tuple[set[int], str, Callable[[Person], None]], ...] = (
            ({1, 2}, "sample", lambda person: the_sample(person, which)),
            ({3, 4}, "noisy", lambda person: the_noisy(person, which)),
        )
        for numbers, name, act in parts:
            if which & numbers:
                root = runs.outputs_root(folder / name)
                if name == "noisy":
                    make_noisy(app, root)
                with server(root, page, app=app) as (url, _):
                    person = Person(page, url, root)
                    act(person)
                    tasks += person.tasks
    return tasks


def the_sample(person: Person, which: set[int]) -> None:
    run = first_mistake(person)
    if 2 in which:
        two_mistakes(person, run)


def the_noisy(person: Person, which: set[int]) -> None:
    (run,) = runs.list_runs(person.root)
    if 3 in which:
        wrong_labels(person, run)
    if 4 in which:
        a_report(person, run)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.tasks")
    parser.add_argument("--app", type=Path, default=ROOT, help="the checkout to drive (this one)")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    parser.add_argument("--only", type=int, nargs="*", default=[1, 2, 3, 4], help="tasks by number (all); 2 needs 1")
    call = parser.parse_args()
    machine = f"{device.describe()}, load {os.getloadavg()[0]:.1f}"
    print(f"{machine}; {call.app}\n\n| task | clicks | seconds | of them computing |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        tasks = do(call.app.resolve(), set(call.only), Path(folder))
    if call.json:
        call.json.write_text(json.dumps({"machine": machine, "tasks": [asdict(task) for task in tasks]}, indent=1))


if __name__ == "__main__":
    main()
