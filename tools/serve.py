"""The app on a port of its own and Debian's chromium: for the browser tests and the pictures."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from tools.hold import Hold

ROOT = Path(__file__).parents[1]
HEALTH = "/_stcore/health"  # answers as soon as the server does
PATIENCE = 600_000  # milliseconds for what computes: a guard against hangs, and no measure of speed
# JavaScript, true while no script of a page is running: what is there then is whole. For conditions that say more, too.
NOT_RUNNING = "document.querySelector('[data-testid=\"stApp\"]')?.dataset.testScriptState === 'notRunning'"
DRAWN = f"""() => {NOT_RUNNING} && document.querySelector('h1')
  && !document.querySelector('[data-testid="stSkeleton"]')"""

_ports: list[int] = []  # those of servers that have ended


@contextmanager
def serving(
    outputs: Path,
    *options: str,
    errors: Path | None = None,
    hold: Hold | None = None,
    inside: str = "",
    app: Path = ROOT,
    **environment: str,
):
    """The app by itself, with options of `streamlit run` and settings of its own; yields the URL and the process.
    What the server says on its standard error is shown, or goes to the file `errors`; `hold` makes its job wait; it
    runs `inside` a module that changes its process, such as `tests.late_loop`; `app` is another checkout."""
    port = _free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, *(hold.words if hold else ["-m"]), *([inside] if inside else [])),
            *("streamlit", "run", "app.py", "--server.port", str(port), *options),
        ],
        cwd=app,
        env={**os.environ, "REPLAY_OUTPUTS_DIR": str(outputs), **environment},
        stdout=subprocess.DEVNULL,
        stderr=errors.open("wb") if errors is not None else None,
    )
    base = options[options.index("--server.baseUrlPath") + 1] if "--server.baseUrlPath" in options else ""
    url = f"http://localhost:{port}/{base}".rstrip("/")
    try:
        while not _answers(url + HEALTH):
            assert process.poll() is None, "the server did not start"
            time.sleep(0.1)
        yield url, process
    finally:
        process.kill()
        process.wait()
        _ports.append(port)


def _free_port() -> int:
    """One that a server of this process had, if any: a browser knows what it has loaded from there."""
    while _ports:
        with contextlib.suppress(OSError):  # meanwhile another's
            return _bound(_ports.pop())
    return _bound(0)


def _bound(port: int) -> int:
    """The port, or any for 0, which could be bound a moment ago."""
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("localhost", port))
        return free.getsockname()[1]


@contextmanager
def server(outputs: Path, page: Page, *options: str, **more: Any):
    """`serving`, with what it takes, whose URL this browser looks at: its tabs leave before the server goes."""
    with serving(outputs, *options, **more) as (url, process):
        yield url, process
        for tab in page.context.pages:
            tab.goto("about:blank")


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
        return True
    except OSError:
        return False


def idle(page: Page) -> None:
    """Waits until no script of the page is running: what is clicked now is not drawn anew under the pointer, and a file
    that is given to a form is not lost with it."""
    page.wait_for_function(f"() => {NOT_RUNNING}", timeout=PATIENCE)


def drawn(page: Page) -> None:
    """Waits for a page that was just gone to: its title stands, nothing is left of its placeholders, and its script has
    ended."""
    page.wait_for_function(DRAWN, timeout=PATIENCE)


@contextmanager
def chromium(*options: str):
    found = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium"))), None)
    assert found, "Debian's chromium is missing: `make browser` installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=options)
        yield browser
        browser.close()
