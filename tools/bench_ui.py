"""How fast the app answers, idle and while a run works: `make bench-ui`, or `python -m tools.bench_ui 500`.

The run that is looked at: the 60,000 training images of Fashion-MNIST, really trained on for one epoch, with scores of
50 targets (at random, with heavy tails: replaying them would take minutes, and no page looks otherwise for it). The
number is of runs in the folder, copies of it. The app: a server of its own, in Debian's chromium, both warm. First
nothing else runs; then the app trains and replays the preset `sample`, again and again, and the same is measured.

A page: from the navigation to its first content, and to all of it. A click: until the script that it started has ended
and its effect stands. Medians and the longest. Memory: what the server holds itself; what it maps of files, which the
system can take back at any time, stands beside it and is not counted. `--against DIR` measures another
checkout too, in turns with this one, for a machine is never as idle as it was before.

Prints Markdown, with the hardware and what was measured. Limits that are missed are marked; none stands in a test.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from playwright.sync_api import Page

from engine import config as configs
from engine import device
from engine.core import replay as replaying
from engine.datasets import registry as dataset_registry
from engine.jobs import execute as work
from engine.runs import run as runs
from engine.runs.manifest import IN_PROGRESS
from engine.targets import Target
from tools.serve import NOT_RUNNING, ROOT, chromium, server
from ui.navigation import PAGES

TARGETS = (*(f"test:{i}" for i in range(49)), "test:all")
CONFIG = configs.preset("sample").replace(
    dataset="fashion-mnist", targets=TARGETS, **{"recipe.epochs": 1, "recipe.batch_size": 1000}
)
ROUNDS, CLICKS = 3, 6
FIRST_CONTENT, CLICK, GROWTH = 1.5, 0.5, 300e6  # seconds, seconds, bytes of its own: the limits
IDLE, BUSY = "idle", "while a run works"
CONTENT = """() => {
  const main = document.querySelector('[data-testid="stMain"]')
  const drawn = main && [...main.querySelectorAll('[data-testid="stElementContainer"]')].filter(e => e.offsetHeight > 0)
  return drawn && main.querySelector('h1') && drawn.length > 1 && performance.now() / 1000
}"""
WHOLE = f"() => {NOT_RUNNING} && ({CONTENT})()"
WATCH = """() => {  // from the next click on: when it was, and whether a script has run since
  window.clicked = window.ran = 0
  const app = document.querySelector('[data-testid="stApp"]')
  window.watching?.disconnect()
  window.watching = new MutationObserver(() => { window.ran ||= app.dataset.testScriptState === 'running' })
  addEventListener('click', () => {
    window.clicked = performance.now()
    window.watching.observe(app, {attributes: true, attributeFilter: ['data-test-script-state']})
  }, {capture: true, once: true})
}"""
ANSWERED = f"(effect) => window.ran && {NOT_RUNNING} && EFFECT && (performance.now() - window.clicked) / 1000"


@dataclass
class Times:
    """Seconds, by what was measured and in which state of the app."""

    pages: dict[tuple[str, str], list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    clicks: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    grown: list[tuple[int, int]] = field(default_factory=list)  # bytes of the server: its own, and mapped ones


# -- what is looked at


def made_up(model, stream, trajectory, adjoint, on_progress=None, **settings) -> torch.Tensor:
    """In place of the replay, and with its result's shape: scores float32 [K, N]."""
    rng, images = np.random.default_rng(0), len(dataset_registry.load(CONFIG.dataset).train_labels)
    scores = torch.from_numpy(1e-6 * rng.standard_t(3, (len(adjoint.theta), images))).float()
    for done in range(1, trajectory.steps + 1):
        if on_progress is not None:
            on_progress(done, adjoint, scores)
    return scores


def make_run(root: Path) -> runs.Run:
    run = runs.Run.create(root, CONFIG)
    with run.lock(), mock.patch.object(replaying, "replay", made_up):
        work.execute(run)
    return run


def copies(run: runs.Run, count: int) -> None:
    """More runs in the folder, with the same files but for the states, which no list looks at one by one."""
    for number in range(1, count):
        states = shutil.ignore_patterns("*.safetensors")
        shutil.copytree(run.path, run.root / f"{run.id}-{number}", ignore=states if number > 1 else None)


def memory(pid: int) -> tuple[int, int]:
    """Bytes of a process that are in RAM: its own, and pages of files that it maps. Those, such as images, scores and
    features, the system takes back when it needs the room, and reads again from the disk."""
    lines = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    kilobytes = {name: value.split()[0] for name, _, value in lines if name.startswith("Rss")}
    own, shared, mapped = (1024 * int(kilobytes[name]) for name in ("RssAnon", "RssShmem", "RssFile"))
    return own + shared, mapped


# -- the run that works


def keep_busy(page: Page, url: str, root: Path) -> None:
    """The sample is being trained or replayed; else it is started by its button, and this waits for its first step."""
    for run in runs.list_runs(root):
        if run.manifest().config.preset == "sample" and run.status in ("training", "replaying"):
            return
    tab = page.context.new_page()
    tab.goto(url)
    tab.get_by_role("button", name="Run the sample").click()
    tab.get_by_role("heading", name="Live", level=1).wait_for()
    (run,) = [run for run in runs.list_runs(root) if run.status in IN_PROGRESS]
    while run.status not in ("training", "replaying"):
        tab.wait_for_timeout(50)
    tab.close()


# -- what is measured


def opened(page: Page, url: str) -> tuple[float, float]:
    """Seconds from the click on a link until the page's first content, and until all of it, stands."""
    page.goto(url, wait_until="commit")
    first = page.wait_for_function(CONTENT, polling="raf").json_value()
    return first, page.wait_for_function(WHOLE, polling="raf").json_value()


def clicked(page: Page, act: Callable[[], None], effect: str = "true", arg: object = None) -> float:
    """Seconds from the click that `act` does until its script has ended, and the JavaScript `effect` is true."""
    page.evaluate(WATCH)
    act()
    return page.wait_for_function(ANSWERED.replace("EFFECT", f"({effect})"), arg=arg, polling="raf").json_value()


MOVED = "location.href !== effect"  # every choice on Influence stands in the address


def another_target(page: Page, number: int) -> float:
    title = Target.parse(TARGETS[1 + number % 48]).title(dataset_registry.load(CONFIG.dataset))
    if (box := page.get_by_role("combobox", name="Target", exact=True)).count():  # before there were thumbnails
        box.first.fill(title)
    option = page.get_by_role("option", name=title).first  # no pattern: a title may hold «/»
    option.wait_for()
    return clicked(page, option.click, MOVED, page.url)


def open_filters(page: Page) -> None:
    """The row that the filters are in, once they folded."""
    row = page.get_by_text("Filters and view")
    if row.count() and not page.get_by_role("radio", name="Both", exact=True).is_visible():
        clicked(page, row.click)
        page.get_by_role("radio", name="Both", exact=True).wait_for()


def a_tick(page: Page, number: int) -> float:
    box = page.locator(".st-key-gallery-harmful .tick input").nth(number % 6)
    return clicked(page, box.click)


def a_sign(page: Page, number: int) -> float:
    open_filters(page)
    words = ("Helpful", "Harmful", "Both")[number % 3]
    return clicked(page, page.get_by_role("radio", name=words, exact=True).first.click, MOVED, page.url)


def a_size(page: Page, number: int) -> float:
    open_filters(page)
    return clicked(page, page.get_by_role("radio", name="SLM"[number % 3], exact=True).first.click, MOVED, page.url)


def next_page(page: Page, number: int) -> float:
    return clicked(page, page.get_by_role("button", name="Next page").first.click, MOVED, page.url)


INFLUENCE = {
    "another target": another_target,
    "a tick": a_tick,
    "tiles of another size": a_size,
    "next page": next_page,
    "another sign": a_sign,
}


def epochs(page: Page, number: int) -> float:
    """Another number of epochs in the form, until the estimate of it stands."""
    box = page.get_by_role("spinbutton", name="Epochs")
    box.fill(str(number + 2))
    began = page.evaluate("performance.now()")
    box.press("Enter")
    words = f"{(number + 2) * 24:,} steps of"  # 6,000 images in batches of 250
    drawn = "(words) => document.body.innerText.includes(words) && performance.now()"
    return (page.wait_for_function(drawn, arg=words, polling="raf").json_value() - began) / 1000


def measure(page: Page, url: str, run: runs.Run, state: str, times: Times, ready: Callable[[], None]) -> None:
    """Every page, and every click, once the app is in the `state`, which `ready` sees to."""
    for path, label, _ in PAGES:
        link = f"{url}/{'' if path == 'app.py' else Path(path).stem}?run={run.id}"
        if state == IDLE:
            opened(page, link)  # warm
        for _ in range(ROUNDS):
            ready()
            times.pages[label, state].append(opened(page, link))
    for words, act in INFLUENCE.items():
        opened(page, f"{url}/Influence?run={run.id}")
        for number in range(CLICKS):
            ready()
            times.clicks[f"Influence: {words}", state].append(act(page, number))
    sidebar = page.locator('[data-testid="stSidebar"]')
    for number in range(CLICKS):
        ready()
        title = ("Trust", "Test images", "Influence")[number % 3]
        link = sidebar.get_by_role("link", name=title, exact=True)
        there = "document.querySelector('h1')?.innerText === effect"
        times.clicks["sidebar: another page", state].append(clicked(page, link.click, there, title))
    opened(page, f"{url}/Set_up_a_run")
    page.get_by_role("button", name="Start the run").wait_for()
    for number in range(CLICKS):
        ready()
        times.clicks["Set up a run: another number", state].append(epochs(page, number))


def measure_app(app: Path, root: Path, page: Page, run: runs.Run, times: Times) -> None:
    """One checkout's app, in a server of its own: idle, and then beside its own work."""
    with server(root, page, app=app) as (url, process):
        opened(page, url)
        page.get_by_text("Computes on").wait_for()  # torch is loaded behind the first page
        if page.get_by_text("It takes").count():  # how long the sample takes, which is measured; not in every checkout
            page.get_by_text("on this machine").wait_for()
        before = memory(process.pid)
        measure(page, url, run, IDLE, times, lambda: None)
        own, mapped = (after - first for after, first in zip(memory(process.pid), before, strict=True))
        times.grown.append((own, mapped))
        measure(page, url, run, BUSY, times, lambda: keep_busy(page, url, root))
    for each in runs.list_runs(root):  # what worked stands as after a kill
        if each.manifest().config.preset == "sample" and each.manifest().config.dataset == "fashion-mnist-sample":
            each.storage().delete()


# -- what is printed


def against(value: float, limit: float, text: str) -> str:
    return text if value <= limit else f"{text}: MISSED"


def figures(seconds: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(seconds), "worst": max(seconds), "n": len(seconds)}


def summary(times: Times) -> dict:
    pages = {
        f"{label}, {state}": {"first content": figures(first), "all of it": figures(whole)}
        for (label, state), pairs in times.pages.items()
        for first, whole in [tuple(zip(*pairs))]
    }
    clicks = {f"{label}, {state}": figures(seconds) for (label, state), seconds in times.clicks.items()}
    own, mapped = max(times.grown)
    return {"pages": pages, "clicks": clicks, "grown": own, "mapped": mapped}


def rows(found: dict) -> list[str]:
    lines = ["| what | median (worst) s | limit |", "|---|---|---|"]
    for name, of in found["pages"].items():
        first, whole = of["first content"], of["all of it"]
        text = f"{first['median']:.2f} ({first['worst']:.2f}); all of it {whole['median']:.2f} ({whole['worst']:.2f})"
        lines.append(f"| {name}: first content | {against(first['median'], FIRST_CONTENT, text)} | {FIRST_CONTENT} |")
    for name, of in found["clicks"].items():
        text = f"{of['median']:.2f} ({of['worst']:.2f})"
        lines.append(f"| {name} | {against(of['median'], CLICK, text)} | {CLICK} |")
    grown = against(found["grown"], GROWTH, f"+{found['grown'] / 1e6:.0f} MB")
    grown += f"; mapped files {found['mapped'] / 1e6:+.0f} MB"
    return [*lines, f"| memory of the server, after all of the idle measurements | {grown} | +{GROWTH / 1e6:.0f} MB |"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.bench_ui")
    parser.add_argument("runs", nargs="?", type=int, default=2, help="in the folder (2)")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    parser.add_argument("--against", type=Path, help="another checkout, to be measured in turns with this one")
    parser.add_argument("--turns", type=int, default=1, help="how often each checkout is measured (1)")
    call = parser.parse_args()
    apps = {"this checkout": ROOT} | ({str(call.against): call.against.resolve()} if call.against else {})
    measured = {name: Times() for name in apps}
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        root = runs.outputs_root(folder)
        run = make_run(root)
        copies(run, call.runs)
        page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
        page.set_default_timeout(60_000)
        for _ in range(call.turns):
            for name, app in apps.items():
                measure_app(app, root, page, run, measured[name])
    machine = f"{device.describe()}, {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB RAM"
    found = {name: summary(times) for name, times in measured.items()}
    print(f"{machine}, {platform.system()}; 60,000 training images × {len(TARGETS)} targets, {call.runs} runs")
    for name, of in found.items():
        print(f"\n{name}, load {os.getloadavg()[2]:.1f}\n\n" + "\n".join(rows(of)))
    if call.json:
        call.json.write_text(json.dumps({"machine": machine, "runs": call.runs, "measured": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
