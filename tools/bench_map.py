"""How fast the page *Map* answers at 60,000 images: `make bench-map`, or `python -m tools.bench_map`.

The run is that of tools/bench_ui.py: the 60,000 training images of Fashion-MNIST, really trained on for one epoch, with
scores of 50 targets at random. Its features are computed by the job, which is timed. Then, in Debian's chromium (which
draws with the CPU where there is no graphics card), side by side, in turns:

    page     from the navigation to the page's first content, and until all points are drawn
    lasso    from letting go of the pointer until the gallery of what was drawn around stands, of some hundred points
             and of about half of all
    line     while a lasso is being drawn, from a movement of the pointer until the frame after it is drawn
    hover    from resting on a point until its picture stands
    frame    one frame while the map is moved with the pointer: from pointer event to pointer event

Medians and the longest of `ROUNDS`. Prints Markdown, with the hardware. `--app DIR` drives another checkout, too, in
turns with this one.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from playwright.sync_api import Page

from engine import device
from engine.jobs import execute as work
from engine.jobs.features import Features
from engine.runs import run as runs
from tools.bench_ui import CONTENT, TARGETS, make_run
from tools.serve import NOT_RUNNING, ROOT, chromium, server

ROUNDS = 5
LASSOS = {"some hundred points": 0.12, "about half of all": 0.7}  # sides, as shares of the chart's
LIMIT = 1.0  # seconds from the lasso to the gallery
DRAWN = (
    "() => document.querySelector('.st-key-map-plot .js-plotly-plot .nsewdrag') && "
    f"{NOT_RUNNING} && performance.now() / 1000"
)
GALLERY = (
    f"(before) => {NOT_RUNNING} && "
    "[...document.querySelectorAll('.st-key-gallery-map *')].some(e => (e.shadowRoot ?? e).querySelector('li img')) && "
    "window.letGo && [...document.querySelectorAll('p')].map(e => e.innerText).find("
    "t => t.includes('drawn around') && t !== before) && (performance.now() - window.letGo) / 1000"
)
LET_GO = "addEventListener('pointerup', () => { window.letGo = performance.now() }, {capture: true, once: true})"
LINE = """() => { window.line_ ??= (addEventListener('pointermove', event => event.buttons && requestAnimationFrame(
  () => requestAnimationFrame(() => window.line_.push((performance.now() - event.timeStamp) / 1000))), true), []) }"""
POINTS = """count => {  // where so many points are on the screen, drawn at random
  const chart = document.querySelector('.st-key-map-plot .js-plotly-plot'), box = chart.getBoundingClientRect()
  const {xaxis: x, yaxis: y} = chart._fullLayout, trace = chart._fullData[0]
  return [...Array(count)].map(() => Math.floor(Math.random() * trace.x.length)).map(i =>
    [box.x + x._offset + x.l2p(trace.x[i]), box.y + y._offset + y.l2p(trace.y[i])])
}"""
FRAMES = """() => { window.frames_ = []; let last = performance.now(); window.framing = true
  const next = now => { window.frames_.push(now - last); last = now; window.framing && requestAnimationFrame(next) }
  requestAnimationFrame(next) }"""


def measure(page: Page, url: str, run: runs.Run, times: dict[str, list[float]]) -> None:
    page.goto(f"{url}/Map?run={run.id}&source=features&colour=effect", wait_until="commit")
    times["page: first content"].append(page.wait_for_function(CONTENT, polling="raf").json_value())
    times["page: all points drawn"].append(page.wait_for_function(DRAWN, polling="raf").json_value())
    chart = page.locator(".st-key-map-plot .js-plotly-plot")
    chart.scroll_into_view_if_needed()
    page.evaluate(LINE)
    for words, share in LASSOS.items():
        times[f"lasso around {words}, until its gallery"].append(lasso(page, share))
        chart.scroll_into_view_if_needed()
    times["line of a lasso, from movement to drawn"] += page.evaluate("window.line_")
    times["hover, until the picture"] += hover(page)
    times["frame, while it is moved"] += frames(page)


def _area(page: Page) -> tuple[float, float, float, float]:
    box = page.locator(".st-key-map-plot .nsewdrag").first.bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, box["width"], box["height"]


def lasso(page: Page, share: float) -> float:
    x, y, width, height = _area(page)
    w, h = share * width / 2, share * height / 2
    told = page.get_by_text("drawn around on the map")
    before = told.inner_text() if told.count() else ""
    page.evaluate(f"() => {{ window.letGo = 0; {LET_GO} }}")
    page.mouse.move(x - w, y - h)
    page.mouse.down()
    for at in ((x + w, y - 0.8 * h), (x + w, y + h), (x - 0.7 * w, y + h), (x - w, y - h)):
        page.mouse.move(*at, steps=8)
    page.mouse.up()
    return page.wait_for_function(GALLERY, arg=before, polling="raf").json_value()


def hover(page: Page) -> list[float]:
    """Of three points, each the first that nobody has pointed at before."""
    seconds = []
    page.locator(".st-key-map-plot .js-plotly-plot").scroll_into_view_if_needed()
    for x, y in page.evaluate(POINTS, 3):
        page.mouse.move(5, 5)
        page.locator(".beside-pointer:not([hidden])").first.wait_for(state="hidden")
        began = time.monotonic()
        page.mouse.move(x - 2, y)
        page.mouse.move(x, y)
        page.locator(".beside-pointer:not([hidden]) img").wait_for()
        seconds.append(time.monotonic() - began)
    return seconds


def frames(page: Page) -> list[float]:
    """Seconds a frame while the pointer drags the whole map about; the first, in which it begins, is left away."""
    x, y, width, height = _area(page)
    page.locator('.st-key-map-plot [data-title="Pan"]').click()
    page.mouse.move(x, y)
    page.mouse.down()
    page.evaluate(FRAMES)
    for i in range(40):
        page.mouse.move(x + 4 * i, y + 2 * i)
    page.evaluate("() => { window.framing = false }")
    page.mouse.up()
    return [each / 1000 for each in page.evaluate("() => window.frames_")[1:]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.bench_map")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    parser.add_argument("--app", type=Path, metavar="DIR", help="another checkout, which is measured beside this one")
    call = parser.parse_args()
    apps = {"": ROOT} | ({f"{call.app}: ": call.app.resolve()} if call.app else {})
    times: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        run = make_run(runs.outputs_root(folder))
        with run.lock():
            work.execute(run, Features())
        computed = run.manifest().timings["features_seconds"]
        page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
        page.set_default_timeout(60_000)
        with contextlib.ExitStack() as stack:
            urls = {name: stack.enter_context(server(run.root, page, app=app))[0] for name, app in apps.items()}
            for url in urls.values():
                page.goto(url)
                page.get_by_text("Computes on").wait_for()  # torch is loaded behind the first page
                measure(page, url, run, defaultdict(list))  # warm
            for _ in range(ROUNDS):
                for name, url in urls.items():
                    of_app: dict[str, list[float]] = defaultdict(list)
                    measure(page, url, run, of_app)
                    for what, seconds in of_app.items():
                        times[name + what] += seconds
    machine = f"{device.describe()}, {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB RAM"
    print(f"{machine}, {platform.system()}, load {os.getloadavg()[0]:.1f}; 60,000 images × {len(TARGETS)} targets\n")
    print(f"Features of 70,000 images and their plane: {computed:.1f} s.\n\n| what | median (worst) s |\n|---|---|")
    for what, seconds in times.items():
        missed = ": MISSED" if what.startswith("lasso") and statistics.median(seconds) > LIMIT else ""
        print(f"| {what} | {statistics.median(seconds):.3f} ({max(seconds):.3f}){missed} |")
    if call.json:
        call.json.write_text(json.dumps({"machine": machine, "times": times}, indent=1) + "\n")


if __name__ == "__main__":
    main()
