"""How fast *Triage* answers a key, and *Duplicates* a click: `make bench-triage`; of a run of yours with OUTPUTS RUN.

Without arguments: 60,000 images with scores of 50 targets, as `tools.bench_ui` makes them. In Debian's chromium, of
each kind of key: from the key to the frame in which the page shows what it did («seen»), and to its being on the disk
(«saved»), medians and the longest; the first picture of the page; and how long after the last of 100 keys, pressed one
right after the other, all of them are on the disk. Then with 5,000 steps of history.

*Duplicates* by perceptual hash, 4 bits of 64: first content, and clicks as `tools.bench_ui` times them.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import Page

from engine import device
from engine.analysis import duplicates as kept
from engine.jobs import execute as work
from engine.jobs.duplicates import FindDuplicates
from engine.runs import corrections, corrections_file
from engine.runs.run import Run, outputs_root
from tools import bench_ui
from tools.serve import chromium, idle, server

KEYS = ("1", "2", "n", "x", "Space", "n", "p", "x", "u", "go on")  # of a round: «go on» is n where it saves nothing
SAVE_NOTHING = ("p", "go on")
ROUNDS = 10
SHOWN = ("1", "x", "Space", "n", "p", "u")  # columns of the table; the digits are one kind
HISTORY = 5000
WATCH = """root => {
  window.answered = []
  let began = 0, key = ""
  addEventListener("keydown", (event) => { began = performance.now(); key = event.key }, true)
  new MutationObserver(() => {
    if (!began) return
    const from = began
    began = 0
    requestAnimationFrame(() => setTimeout(() => window.answered.push([key, performance.now() - from])))
  }).observe(root, { subtree: true, childList: true, characterData: true, attributes: true })
}"""


def opened(page: Page, url: str, run: Run, source: str) -> float:
    """Seconds until the first picture stands."""
    began = time.monotonic()
    page.goto(f"{url}/Triage?run={run.id}&queue={source}&most=1000")
    page.locator(".triage .picture img").wait_for()
    seconds = time.monotonic() - began
    idle(page)
    page.locator(".triage").element_handle().evaluate(WATCH)
    return seconds


def on_disk(run: Run) -> list[tuple[int, ...]]:
    """Tells a state of the files that keys write to from every other one."""
    paths = [run.path / name for name in (corrections.NAME, "notes.json")]
    return [(s.st_ino, s.st_size, s.st_mtime_ns) for path in paths if path.exists() for s in (path.stat(),)]


def measure(page: Page, run: Run) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds until a key is seen and until it is saved, by kind of key. No image of the queue was looked at before."""
    seen: dict[str, list[float]] = defaultdict(list)
    saved: dict[str, list[float]] = defaultdict(list)
    for count, key in enumerate(KEYS * ROUNDS, 1):
        before, began = on_disk(run), time.monotonic()
        page.keyboard.press("n" if key == "go on" else key)
        kind = "1" if key.isdigit() else key
        if key not in SAVE_NOTHING:
            while on_disk(run) == before:
                time.sleep(0.002)
            saved[kind].append(time.monotonic() - began)
        page.wait_for_function(f"window.answered.length >= {count}")
        seen[kind].append(page.evaluate("window.answered.at(-1)[1]") / 1000)
    return seen, saved


def burst(page: Page, run: Run) -> float:
    """Seconds from the last of 100 keys, pressed without waiting, until the disk has all of them."""
    steps = len(corrections.read_record(run).history)
    for number in range(100):
        page.keyboard.press("12"[number % 2])
    last = time.monotonic()
    shown = page.locator(".triage .count").inner_text().split(" · ")[1].split(" ")[0]
    while len(corrections.read_record(run).looked_at) < int(shown.replace(",", "")):
        time.sleep(0.01)
    assert len(corrections.read_record(run).history) > steps
    return time.monotonic() - last


def cell(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.3f} ({max(seconds):.3f})" if seconds else "–"


def row(title: str, first: float, seen: dict[str, list[float]], saved: dict[str, list[float]], after: float) -> str:
    seen_cells, saved_cells = (" | ".join(cell(times[key]) for key in SHOWN) for times in (seen, saved))
    return f"| {title}, seen | {first:.1f} | {seen_cells} | |\n| saved | | {saved_cells} | {after:.2f} |"


def of_duplicates(page: Page, url: str, run: Run) -> list[str]:
    if kept.HASH not in kept.ways(run.manifest()):
        with run.lock():
            work.execute(run, FindDuplicates(kept.HASH, 4.0))
    found = kept.known(run.manifest(), kept.HASH)
    assert found is not None
    address = f"{url}/Duplicates?run={run.id}&by={kept.HASH}"
    first, whole = zip(*(bench_ui.opened(page, address) for _ in range(1 + ROUNDS)))
    lines = [f"| first content (all of it) | {cell(first[1:])} ({cell(whole[1:])}) |"]
    boxes, keep = (
        page.locator("[class*=st-key-gallery-dup] .tick input"),
        page.get_by_role("button", name="Keep the first"),
    )
    for words, act in {
        "a tick": lambda number: bench_ui.clicked(page, boxes.nth(number % 4).click),
        "keep the first": lambda number: bench_ui.clicked(page, keep.nth(number % 4).click),
        "next page": lambda number: bench_ui.next_page(page, number),
    }.items():
        lines.append(f"| {words} | {cell([act(number) for number in range(ROUNDS)])} |")
    return [f"| *Duplicates*, {len(found.starts):,} groups of {len(found.images):,} images | |", "|---|---|", *lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", nargs="?")
    parser.add_argument("run", nargs="?")
    call = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if call.outputs is None:
            run = bench_ui.make_run(outputs_root(folder))
        else:
            run = Run.open(outputs_root(call.outputs), call.run)
        print(f"{device.describe()}; load {os.getloadavg()[0]:.1f}; run {run.id}; seconds, median (longest)\n")
        print(f"| | first picture | {' | '.join(SHOWN)} | after 100 keys |\n|{'---|' * (len(SHOWN) + 3)}")
        with chromium() as browser:
            page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
            page.set_default_timeout(120_000)
            with server(Path(run.root), page) as (url, _):
                opened(page, url, run, "loss")
                steps = tuple(corrections.Step(((i % 2, None, 1),), (), ()) for i in range(HISTORY))
                for source, history in (("loss", ()), ("harm", ()), ("loss", steps)):
                    (run.path / corrections.NAME).unlink(missing_ok=True)
                    corrections_file.begin(run.path, corrections.Record(history=history))
                    title = f"{source}, {HISTORY:,} steps of history" if history else source
                    first = opened(page, url, run, source)
                    print(row(title, first, *measure(page, run), burst(page, run)), flush=True)
                print("", *of_duplicates(page, url, run), sep="\n")


if __name__ == "__main__":
    main()
