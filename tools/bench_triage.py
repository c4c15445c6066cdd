"""How fast *Triage* answers a key: `python -m tools.bench_triage`, or `… OUTPUTS RUN` for a run that is there.

Without arguments: 60,000 images with scores of 50 targets, as `tools.bench_ui` makes them. In Debian's chromium: from
the key to the frame in which the page shows what it did, each kind of key, medians and the longest; the first picture
of the page; and how long after the last of 100 keys, pressed one after the other, all of them are on the disk. Then
with 5,000 steps of history. Nothing here is a limit of a test: 0.5 s is what a person should never wait longer for.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from playwright.sync_api import Page

from engine import device
from engine.runs import corrections
from engine.runs.run import Run, outputs_root
from tools.serve import chromium, server

KEYS = ("1", "2", "n", "x", "Space", "n", "p", "3", "u", "n")
ROUNDS = 10
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
    page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]').wait_for()
    page.locator(".triage").element_handle().evaluate(WATCH)
    return seconds


def measure(page: Page, run: Run) -> tuple[dict[str, list[float]], float]:
    """Seconds by key; and from the last key until the disk has all of them."""
    times: dict[str, list[float]] = defaultdict(list)
    for count, key in enumerate(KEYS * ROUNDS, 1):
        page.keyboard.press(key)
        page.wait_for_function(f"window.answered.length >= {count}")
    last = time.monotonic()
    shown = page.locator(".triage .count").inner_text().split(" · ")[1].split(" ")[0]
    while len(corrections.read_record(run).looked_at) < int(shown.replace(",", "")):
        time.sleep(0.01)
    for key, seconds in page.evaluate("window.answered"):
        times["Space" if key == " " else key].append(seconds / 1000)
    return times, time.monotonic() - last


def rows(title: str, first: float, times: dict[str, list[float]], kept: float) -> list[str]:
    row = f"| {title} | {first:.1f} |"
    for key in ("1", "x", "Space", "n", "p", "u"):
        row += f" {statistics.median(times[key]):.3f} ({max(times[key]):.3f}) |"
    return [f"{row} {kept:.2f} |"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", nargs="?")
    parser.add_argument("run", nargs="?")
    call = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if call.outputs is None:
            from tools.bench_ui import make_run

            run = make_run(outputs_root(folder))
        else:
            run = Run.open(outputs_root(call.outputs), call.run)
        print(f"{device.describe()}; run {run.id}; seconds, median (longest)\n")
        print("| | first picture | 1 | x | space | n | p | u | on disk after |\n|---|---|---|---|---|---|---|---|---|")
        with chromium() as browser:
            page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
            page.set_default_timeout(120_000)
            with server(Path(run.root), page) as (url, _):
                opened(page, url, run, "loss")
                for source in ("loss", "harm"):
                    first = opened(page, url, run, source)
                    print(*rows(source, first, *measure(page, run)), sep="\n", flush=True)
                (run.path / corrections.NAME).unlink()
                steps = tuple(corrections.Step(((i % 2, None, 1),), (), ()) for i in range(HISTORY))
                corrections._write(run, corrections.Record(history=steps))
                first = opened(page, url, run, "loss")
                print(*rows(f"loss, {HISTORY:,} steps of history", first, *measure(page, run)), sep="\n", flush=True)


if __name__ == "__main__":
    main()
