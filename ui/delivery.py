"""What a page has drawn reaches the browser, also where a part of it is asked for at that very moment.

Streamlit draws a page in a thread, which hands each element over to the server's loop and then ends. A part that is
drawn by itself (a fragment; those with `run_every` are asked for every two seconds) waits for that thread, and is then
drawn by it. But where it is asked for when the thread has ended, and the loop has not yet taken all that was handed
over, Streamlit (1.67) starts another thread, and the loop throws away what is left of the first: the page stays as it
was before the last click, until the next one. That takes a loop that is late, as on a machine with much to do.

Here such a part waits until the loop has taken all. Streamlit offers no place for that, so one method of its
`AppSession` is wrapped.
"""

import asyncio

from streamlit.runtime.app_session import AppSession, AppSessionState
from streamlit.runtime.scriptrunner import RerunData

A_LOOK = 0.005  # seconds between two looks at whether the loop has taken all


def in_order() -> None:
    """For every page of this process, from now on."""
    start = AppSession._create_scriptrunner

    def start_after(session: AppSession, asked: RerunData) -> None:
        """Starts the thread that draws what is `asked` for, once nothing is on its way from the one before."""
        before = session._scriptrunner  # None once the loop has taken all, and for a whole page at once
        if session._state is AppSessionState.SHUTDOWN_REQUESTED:
            return  # the tab has gone meanwhile
        if before is None:
            start(session, asked)
        elif not before.request_rerun(asked):  # that one has ended
            asyncio.get_running_loop().call_later(A_LOOK, start_after, session, asked)

    AppSession._create_scriptrunner = start_after
