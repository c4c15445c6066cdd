"""What several test modules share: a tiny model and its images, the pages without a browser, and tabs of a browser.

Streamlit, Playwright and torch are imported where they are used: a machine with a GPU may have no browser.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from engine.config import Recipe

if TYPE_CHECKING:
    import numpy as np
    import torch
    from playwright.sync_api import Download, Locator, Page
    from streamlit.testing.v1 import AppTest

    from engine.api import Trained
    from engine.jobs.queue import JobQueue

ROOT = Path(__file__).parents[1]
GUARD = 120_000  # ms that a browser waits for what always comes: a guard against hangs, and no measure of speed
PAGES = {  # in the sidebar's order
    "app.py": "Replay Explorer",
    "pages/Data.py": "Data",
    "pages/Set_up_a_run.py": "Set up a run",
    "pages/Live.py": "Live",
    "pages/Runs_and_storage.py": "Runs and storage",
    "pages/Influence.py": "Influence",
    "pages/Themes.py": "Themes",
    "pages/Training_images.py": "Training images",
    "pages/Test_images.py": "Test images",
    "pages/Map.py": "Map",
    "pages/Self_influence.py": "Self-influence",
    "pages/Find_bad_labels.py": "Find bad labels",
    "pages/Duplicates.py": "Duplicates",
    "pages/Triage.py": "Triage",
    "pages/Trust.py": "Trust",
    "pages/Compare_runs.py": "Compare runs",
    "pages/Glossary.py": "Glossary",
}
MEASURES_NOTHING = [sys.executable, "-c", ""]  # what `engine.jobs.speed` calls, in tests of anything else
# On a page's own URL Streamlit first looks for its server below that path, and then at the root.
PROBES = ("/_stcore/health", "/_stcore/host-config")


# -- a model that trains in milliseconds

RECIPE = Recipe(epochs=3, batch_size=8, peak_lr=0.1, warmup=0.25, seed=5)  # 9 steps of 26 examples


def differences(trained: Trained, n: int, h: float, inputs, labels, **asked) -> np.ndarray:
    """What `engine.attribute(trained, inputs, labels, **asked)` has to be: central differences of the weight of each of
    the `n` training examples, by retraining."""
    import numpy as np
    import torch

    import engine

    columns = []
    for i in range(n):
        ends = []
        for sign in (1, -1):
            weights = torch.ones(n, dtype=torch.float64)
            weights[i] += sign * h
            ends.append(engine.evaluate(trained, inputs, labels, **asked, state=engine.retrain(trained, weights)))
        columns.append((ends[0] - ends[1]) / (2 * h))
    return np.stack(columns, axis=-1)


def net() -> torch.nn.Sequential:
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(3 * 16, 5),
        nn.BatchNorm1d(5),
        nn.Linear(5, 3),
    ).double()


def images(n: int = 26) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    torch.manual_seed(1)
    return torch.randn(n, 1, 6, 6, dtype=torch.float64), torch.randint(0, 3, (n,))


# -- what takes long to make


def here(value):
    """The value, or what makes it: in the test that needs it, not whenever tests are collected."""
    return value() if callable(value) else value


# -- the queue


def wait_for(queue: JobQueue) -> None:
    """Returns once the worker has let go of everything that this queue has: each says when it is free."""
    from engine.jobs import queue as module

    for held in module._worker.held(queue.root):
        while not held.released.wait(0.1):
            assert module._worker._thread is None or module._worker._thread.is_alive(), "the worker has died"


def until(condition: Callable[[], object]) -> None:
    """Waits for what another thread does; the limit guards against hangs."""
    for _ in range(2400):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come to that")


# -- pages without a browser


def show(page: str, /, **query) -> AppTest:
    from streamlit.testing.v1 import AppTest

    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    if page != "app.py":
        app.switch_page(page)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    return sound(app)


def sound(app: AppTest) -> AppTest:
    """No exception, shown by Streamlit or, for the shell catches them all, as a message."""
    assert not app.exception, app.exception[0].message
    assert "This page stopped" not in said(app), said(app)
    return app


def said(app: AppTest) -> str:
    return "\n".join(e.value for kind in (app.error, app.warning, app.info, app.success) for e in kind)


def tiles(app: AppTest, key: str) -> list[dict]:
    """What the gallery of this key is told to draw."""
    shown = [e.proto for e in app.get("bidi_component") if e.proto.id.endswith(f"-{key}")]
    return json.loads(shown[0].json)["tiles"] if shown else []


def drawn(app: AppTest, component: str) -> list[dict]:
    """What each component of this kind, such as «triage», is told to draw."""
    return [json.loads(e.proto.json) for e in app.get("bidi_component") if e.proto.component_name.endswith(component)]


def button(app: AppTest, label: str):
    return next(b for b in app.button if b.label.startswith(label))


# -- tabs of a browser


def tab_is_sound(tab: Page) -> None:
    """No exception: Streamlit's own box, or the message that the shell makes of an unforeseen one."""
    boxes = tab.locator('[data-testid="stException"], [data-testid="stAlert"]:has-text("This page stopped")')
    if boxes.count():
        raise AssertionError(f"{tab.url} stopped:\n{tab.locator('body').text_content()}")


def settled(tab: Page, heading: str) -> None:
    """The page of this heading is drawn, whole or in part."""
    from playwright.sync_api import expect

    expect(tab.get_by_role("heading", name=heading, exact=True, level=1)).to_be_visible()
    tab_is_sound(tab)


def turn(tab: Page, address: str) -> None:
    """The page of this address in a tab that shows another one of the app, as the browser's «back» leads there: what
    takes a second, the app's own code, stays loaded. `settled` and `idle` wait for it."""
    tab.evaluate("address => { history.pushState(null, '', address); dispatchEvent(new Event('popstate')); }", address)


def idle(tab: Page) -> None:
    """The script has run to its end: what is clicked now is not drawn anew under the pointer."""
    from playwright.sync_api import expect

    expect(tab.locator('[data-testid="stApp"]')).to_have_attribute("data-test-script-state", "notRunning")


def at_rest(tab: Page) -> None:
    """No animation or transition is under way, two frames in a row, but those that never end."""
    tab.wait_for_function(
        """async () => {
            const moving = () => document.getAnimations().some(
                a => a.playState === "running" && isFinite(a.effect.getComputedTiming().endTime));
            const frame = () => new Promise(requestAnimationFrame);
            if (moving()) return false;
            await frame(); await frame();
            return !moving();
        }"""
    )


def steps_done(tab: Page) -> tuple[str, int]:
    """Phase and number of steps, as *Live* shows them."""
    metrics = tab.locator('[data-testid="stMetric"]')
    phase = metrics.nth(0).locator('[data-testid="stMetricValue"]').inner_text()
    step = metrics.nth(1).locator('[data-testid="stMetricValue"]').inner_text()
    return phase, int(step.split(" of ")[0].replace(",", "")) if " of " in step else 0


def wait_until(condition: Callable[[], bool], tab: Page) -> None:
    """For as long as pytest's own limit allows: how fast the machine is says nothing."""
    while not condition():
        tab.wait_for_timeout(100)


class Held:
    """What the server says reaches the browser `begin` to `end` not at all, and then all at once, as it does a browser
    that has much to do; already from a message with `first` in it on, where that is given."""

    def __init__(self, tab: Page, first: bytes | None = None):
        self.waiting: list[bytes] = []
        self.on, self._first, self._browser = False, first, None
        tab.route_web_socket("**/_stcore/stream", self._between)

    def begin(self) -> None:
        self.on = True

    def end(self) -> None:
        self.on, self._first = False, None
        for each in self.waiting:
            self._browser.send(each)
        self.waiting.clear()

    def has(self, text: bytes) -> bool:
        return text in b"".join(self.waiting)

    def _between(self, browser) -> None:
        def say(message) -> None:
            self.on = self.on or (self._first is not None and self._first in message)
            self.waiting.append(message) if self.on else browser.send(message)

        self._browser = browser
        browser.connect_to_server().on_message(say)


class Timers:
    """What a page that is yet to be loaded asks for again and again, to be asked for at will."""

    def __init__(self, tab: Page):
        tab.add_init_script(
            """(() => {
                const begin = window.setInterval;
                window.timers = [];
                window.setInterval = (ask, ...more) => { window.timers.push(ask); return begin(ask, ...more); };
            })()"""
        )

    def ask_after_a_click(self, button: Locator) -> None:
        """In the moment in which the browser has yet to say the click."""
        button.evaluate("button => { button.click(); window.timers.forEach(ask => ask()); }")


def download(tab: Page, button: Locator) -> Download:
    """What the button gives, once the page is drawn whole."""
    idle(tab)
    with tab.expect_download() as file:
        button.click()
    return file.value


def go(tab: Page, link: Locator, heading: str) -> None:
    """Follows a link to the page of this heading; once more where the page that has the link is drawn anew under the
    click, as *Live* is when its work ends."""
    from playwright.sync_api import TimeoutError

    there = tab.get_by_role("heading", name=heading, exact=True, level=1)

    def arrived() -> bool:
        if not there.is_visible():
            idle(tab)
            if link.is_visible():
                link.click()
            with contextlib.suppress(TimeoutError):
                there.wait_for(timeout=5000)
        return there.is_visible()

    wait_until(arrived, tab)
    tab_is_sound(tab)


def pick(tab: Page, box: str, option: str) -> None:
    """One of a list."""
    choose(tab, tab.get_by_role("combobox", name=box), tab.get_by_role("option", name=option, exact=True))


def choose(tab: Page, box: Locator, wanted: Locator) -> str:
    """Opens a list, clicks one of its options and says what it reads; the list closes again where the page scrolls, or
    is drawn anew, and is then opened once more. At one stroke: of a click that was given up nobody knows whether it was
    made, and an option of several that was chosen is offered no more. A click on a list that is being closed may do
    nothing, so the widget has to show what was chosen."""
    from playwright.sync_api import TimeoutError

    widget = box.locator("xpath=ancestor::*[@data-testid='stSelectbox' or @data-testid='stMultiSelect']")
    text = ""

    def is_chosen() -> bool:
        return bool(text) and (text in widget.inner_text() or text == box.input_value())

    def chosen() -> bool:
        nonlocal text
        if is_chosen():
            return True
        if not wanted.is_visible():
            box.click()
        try:
            wanted.wait_for(timeout=1000)
            text = wanted.evaluate("option => { option.click(); return option.innerText.trim(); }", timeout=1000)
        except TimeoutError:
            return False
        tab.wait_for_timeout(100)
        return is_chosen()

    idle(tab)
    wait_until(chosen, tab)
    return text


def tick(tab: Page, box: str) -> None:
    """Ticks a box by its words. A click in the moment in which they are drawn anew may do nothing, so that the box has
    to show it; where it does not, once more."""
    checkbox = tab.get_by_role("checkbox", name=box, exact=True)

    def ticked() -> bool:
        if not checkbox.is_checked():
            tab.get_by_text(box, exact=True).click()
            tab.wait_for_timeout(300)
        return checkbox.is_checked()

    wait_until(ticked, tab)


def shown(tab: Page, which: str) -> list[int]:
    """The images in a gallery, once it is drawn and the script has ended."""
    from playwright.sync_api import expect

    idle(tab)
    expect(tab.locator(f".st-key-gallery-{which} li").first).to_be_visible()
    return tab.locator(f".st-key-gallery-{which} li").evaluate_all("tiles => tiles.map(t => Number(t.dataset.index))")
