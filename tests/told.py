"""The app in a process whose settings can be told while it runs: `python -m tests.told streamlit …`. The variable TOLD
names a file; each session of a browser begins with the environment variables REPLAY_… that the file has then. Its
Overview measures nothing."""

import json
import os
import sys
from pathlib import Path

from streamlit.runtime.app_session import AppSession

from engine.jobs import speed
from tests.helpers import MEASURES_NOTHING
from tools import as_main

PREFIX = "REPLAY_"


def settings() -> dict[str, str]:
    """Those of this process."""
    return {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}


def install() -> None:
    exact = AppSession.__init__

    def begin(session: AppSession, *args, **kwargs) -> None:
        for name in settings():
            del os.environ[name]
        os.environ.update(json.loads(Path(os.environ["TOLD"]).read_text()))
        exact(session, *args, **kwargs)

    AppSession.__init__ = begin
    speed.CALL = MEASURES_NOTHING


if __name__ == "__main__":
    install()
    as_main.run(*sys.argv[1:])
