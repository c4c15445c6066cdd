"""The app that the browser tests of a process share. Its start takes two seconds of a core, and so does each page that
a browser draws of an app whose code it has not loaded before."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Page

from engine.runs import run as runs
from tests.told import PREFIX, settings
from tools import serve

KEEPER = serve.HEALTH  # what the tab shows that keeps the code loaded while no other is there


class SharedApp:
    """Started when it is first asked for, and anew after a test that failed or left work behind."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._process = None

    @contextmanager
    def serving(self, outputs: Path, **environment: str) -> Iterator[tuple[str, None]]:
        """Its URL, and no process to stop; the sessions that begin inside have these settings, and those of this
        process."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._file = Path(self._open.enter_context(tempfile.TemporaryDirectory())) / "settings.json"
            serving = serve.serving(outputs, inside="tests.told", TOLD=str(self._file))
            self._url, self._process = self._open.enter_context(serving)
        self._file.write_text(json.dumps({**settings(), "REPLAY_OUTPUTS_DIR": str(outputs), **environment}))
        sound = False
        try:
            yield self._url, None
            sound = not any(run.lock().is_held() for run in runs.list_runs(outputs))
        finally:
            if not sound:
                self.close()

    def close(self) -> None:
        self._open.close()
        self._process = None


shared = SharedApp()


@contextmanager
def server(outputs: Path, page: Page, *options: str, own: bool = False, **more: Any) -> Iterator[tuple[str, Any]]:
    """`tools.serve.server`, which leaves the keeper where it is; where nothing but settings REPLAY_… is asked for, and
    no server of its own, it is the shared one, without a process to stop."""
    own = own or bool(options) or not all(name.startswith(PREFIX) for name in more)
    serving = serve.serving(outputs, *options, **more) if own else shared.serving(outputs, **more)
    with serving as (url, process):
        if not own:
            keep_loaded(page.context, url)
        yield url, process
        for tab in tabs(page.context):
            tab.goto("about:blank")


def tabs(context: BrowserContext) -> list[Page]:
    """All but the keeper."""
    return [tab for tab in context.pages if not tab.url.endswith(KEEPER)]


def keep_loaded(context: BrowserContext, url: str) -> None:
    keepers = [tab for tab in context.pages if tab.url.endswith(KEEPER)]
    if [tab.url for tab in keepers] != [url + KEEPER]:
        for tab in keepers:
            tab.close()
        context.new_page().goto(url + KEEPER)


def forget(context: BrowserContext) -> None:
    """What pages left in the browser: tabs, permissions, and what they have stored."""
    for tab in tabs(context):
        tab.close()
    context.clear_cookies()
    context.clear_permissions()
    for keeper in context.pages:
        keeper.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
