"""How fast the app shows a large run, or one among many: `make bench-ui`, `python -m tools.bench_ui 500`.

The run: the 60,000 training images of Fashion-MNIST, really trained on for one epoch, with scores of 50 targets
(at random, with heavy tails: replaying them would take minutes, and no page looks otherwise for it). An argument is
the number of runs in the folder, copies of it. The app: a server of its own, in Debian's chromium, both warm.
Prints Markdown, with the hardware and what was measured. Limits that are missed are marked; none stands in a test.
"""

import os
import platform
import shutil
import statistics
import sys
import tempfile
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
from engine.targets import Target
from tools.serve import chromium, server
from ui.shell import PAGES

TARGETS = (*(f"test:{i}" for i in range(49)), "test:all")
CONFIG = configs.preset("sample").replace(
    dataset="fashion-mnist", targets=TARGETS, **{"recipe.epochs": 1, "recipe.batch_size": 1000}
)
ROUNDS, SWITCHES = 5, 20
FIRST_CONTENT, SWITCH, GROWTH = 1.5, 0.5, 300e6  # seconds, seconds, bytes: the limits
CONTENT = """() => {
  const main = document.querySelector('[data-testid="stMain"]')
  const drawn = main && [...main.querySelectorAll('[data-testid="stElementContainer"]')].filter(e => e.offsetHeight > 0)
  return drawn && main.querySelector('h1') && drawn.length > 1 && performance.now() / 1000
}"""
WHOLE = f"""() => {{
  const app = document.querySelector('[data-testid="stApp"]')
  return app?.dataset.testScriptState === 'notRunning' && ({CONTENT})()
}}"""


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


def memory(pid: int) -> int:
    """Bytes of a process that are in RAM."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS:")).split()[1])


def opened(page: Page, url: str) -> tuple[float, float]:
    """Seconds from the click on a link until the page's first content, and until all of it, stands."""
    page.goto(url, wait_until="commit")
    first = page.wait_for_function(CONTENT, polling="raf").json_value()
    return first, page.wait_for_function(WHOLE, polling="raf").json_value()


def switched(page: Page, title: str) -> float:
    """Seconds from the click on another target until the page has been drawn anew."""
    page.get_by_role("combobox", name="Target").first.fill(title)
    option = page.get_by_role("option", name=title, exact=True)
    option.wait_for()
    page.evaluate(
        "window.addEventListener('click', () => window.clicked = performance.now(), {capture: true, once: true})"
    )
    address = page.url
    option.click()
    return page.wait_for_function(
        """(address) => location.href !== address
           && document.querySelector('[data-testid="stApp"]').dataset.testScriptState === 'notRunning'
           && (performance.now() - window.clicked) / 1000""",
        arg=address,
        polling="raf",
    ).json_value()


def against(value: float, limit: float, text: str) -> str:
    return text if value <= limit else f"{text}: MISSED"


def copies(run: runs.Run, count: int) -> None:
    """More runs in the folder, with the same files but for the states, which no list looks at one by one."""
    for number in range(1, count):
        states = shutil.ignore_patterns("*.safetensors")
        shutil.copytree(run.path, run.root / f"{run.id}-{number}", ignore=states if number > 1 else None)


def page_rows(page: Page, url: str, run: runs.Run) -> list[tuple[str, str, str]]:
    """Each page, warm."""
    rows = []
    for path, label, _ in PAGES:
        link = f"{url}/{'' if path == 'app.py' else Path(path).stem}?run={run.id}"
        opened(page, link)
        first, whole = map(statistics.median, zip(*(opened(page, link) for _ in range(ROUNDS))))
        shown = against(first, FIRST_CONTENT, f"{first:.2f} s ({whole:.2f} s)")
        rows.append((f"{label}: first content (all of it)", shown, f"{FIRST_CONTENT} s"))
    return rows


def switch_row(page: Page, url: str, run: runs.Run) -> tuple[str, str, str]:
    """Another target on Influence."""
    opened(page, f"{url}/Influence?run={run.id}")
    dataset = dataset_registry.load(CONFIG.dataset)
    titles = [f"{Target.parse(target).title(dataset)} · loss" for target in TARGETS]
    times = [switched(page, title) for title in titles[1 : SWITCHES + 1]]
    took = statistics.median(times)
    shown = against(took, SWITCH, f"{took:.2f} s ({max(times):.2f} s)")
    return f"Influence: another target, median of {SWITCHES} (longest)", shown, f"{SWITCH} s"


def set_up_row(page: Page, url: str) -> tuple[str, str, str]:
    """Another number of epochs in the form, until the estimate of it stands."""
    opened(page, f"{url}/Set_up_a_run")
    page.get_by_role("button", name="Start the run").wait_for()
    epochs, times = page.get_by_role("spinbutton", name="Epochs"), []
    for number in range(2, SWITCHES + 2):
        epochs.fill(str(number))
        began = page.evaluate("performance.now()")
        epochs.press("Enter")
        words = f"{number * 24:,} steps of"  # 6,000 images in batches of 250
        drawn = "(words) => document.body.innerText.includes(words) && performance.now()"
        times.append((page.wait_for_function(drawn, arg=words, polling="raf").json_value() - began) / 1000)
    took = statistics.median(times)
    shown = against(took, SWITCH, f"{took:.2f} s ({max(times):.2f} s)")
    return f"Set up a run: another number, median of {SWITCHES} (longest)", shown, f"{SWITCH} s"


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        root = runs.outputs_root(folder)
        run = make_run(root)
        copies(run, count)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(60_000)
        with server(root, page) as (url, process):
            opened(page, url)
            page.get_by_text("Computes on").wait_for()  # torch is loaded behind the first page
            before = memory(process.pid)
            rows = [*page_rows(page, url, run), switch_row(page, url, run), set_up_row(page, url)]
            grown = memory(process.pid) - before
            what = f"Memory of the server, {before / 1e6:.0f} MB with its first page, after all of this"
            rows.append((what, against(grown, GROWTH, f"+{grown / 1e6:.0f} MB"), f"+{GROWTH / 1e6:.0f} MB"))
        sizes = run.scores().matrix("loss-000").shape
    print(
        f"{device.describe()}, {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB RAM, "
        f"{platform.system()}; {sizes[1]:,} training images × {sizes[0]} targets, {count} runs\n\n"
        "| what | measured | limit |\n|---|---|---|"
    )
    print("\n".join(f"| {what} | {value} | {limit} |" for what, value, limit in rows))


if __name__ == "__main__":
    sys.exit(main())
