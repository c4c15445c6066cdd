"""The app in a process whose threads end late: `python -m tests.late_end streamlit …`. A thread that has drawn a page
takes a while to end, as any may on a machine with much to do; so what is clicked next comes before that."""

import sys
import time

from streamlit.runtime.scriptrunner import ScriptRunner

from tools import as_main

LATE = 0.6  # seconds


def install() -> None:
    exact = ScriptRunner._on_script_finished

    def _on_script_finished(runner: ScriptRunner, *args) -> None:
        time.sleep(LATE)
        exact(runner, *args)

    ScriptRunner._on_script_finished = _on_script_finished  # type: ignore[method-assign]


if __name__ == "__main__":
    install()
    as_main.run(*sys.argv[1:])
