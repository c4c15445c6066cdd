"""The app in a process whose loop is late just where that can lose something: `python -m tests.late_loop streamlit …`.

Each time that a page is drawn, a part of it is asked for when the thread that draws it has ended, and before the loop
has taken what it drew: what the browser's timers do on a busy machine, now and then.
"""

import sys
from typing import Any

from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.runtime.app_session import AppSession

from tools import as_main


def install() -> None:
    exact = AppSession.request_rerun

    def request_rerun(session: AppSession, asked: ClientState | None) -> None:
        parts: list[str] = list(session._fragment_storage._fragments)  # type: ignore[attr-defined]
        exact(session, asked)
        runner = session._scriptrunner
        if asked is None or asked.fragment_id or not parts or runner is None:
            return
        assert runner._script_thread is not None
        runner._script_thread.join()
        exact(session, _of_part(asked, parts[0]))

    AppSession.request_rerun = request_rerun


def _of_part(asked: ClientState, part: str) -> ClientState:
    """What a timer of the browser sends after it: the same values, and no click, for that was told."""
    timer: Any = ClientState()
    timer.CopyFrom(asked)
    timer.fragment_id, timer.is_auto_rerun = part, True
    values = [
        state
        for state in asked.widget_states.widgets
        if not (state.WhichOneof("value") or "").endswith("trigger_value")
    ]
    del timer.widget_states.widgets[:]
    timer.widget_states.widgets.extend(values)
    return timer


if __name__ == "__main__":
    install()
    as_main.run(*sys.argv[1:])
