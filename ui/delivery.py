"""What a page has drawn reaches the browser, also where a part of it is asked for at that very moment.

Streamlit draws a page in a thread, which hands each element over to the server's loop and then ends. A part that is
drawn by itself (a fragment; those with `run_every` are asked for every two seconds) waits for that thread, and is then
drawn by it. But where it is asked for when the thread has ended, and the loop has not yet taken all that was handed
over, Streamlit (1.67) starts another thread, and the loop throws away what is left of the first: the page stays as it
was before the last click, until the next one. That takes a loop that is late, as on a machine with much to do.

Here such a part waits until the loop has taken all.

A part with `run_every` is also asked for by a browser that has not heard yet that the page is another one by now
(`st.switch_page`). Where both pages have that part, Streamlit draws it and says that it is of the page before; so the
browser, which shows the new page by then, clears that away, and has no place for whatever comes after («Bad delta
path»): a page without content until it is loaded again. Here nothing is drawn of a page that is not there any more.

Streamlit offers no place for either, so one method of its `AppSession` and one of its `ScriptRunner` are wrapped; a
later Streamlit that has no such methods is left as it is, and the server's log says so.
"""

import asyncio
import logging

from streamlit.runtime import app_session

A_LOOK = 0.005  # seconds between two looks at whether the loop has taken all


def in_order() -> None:
    """For every page of this process, from now on."""
    sessions, states = (getattr(app_session, name, None) for name in ("AppSession", "AppSessionState"))
    runners = getattr(app_session, "ScriptRunner", None)
    start, run = getattr(sessions, "_create_scriptrunner", None), getattr(runners, "_run_script", None)
    if sessions is None or runners is None or start is None or run is None or not hasattr(states, "SHUTDOWN_REQUESTED"):
        logging.getLogger(__name__).warning("This Streamlit draws pages otherwise: ui/delivery.py is not in use.")
        return

    def start_after(session, asked) -> None:
        """Starts the thread that draws what is `asked` for, once nothing is on its way from the one before."""
        before = getattr(session, "_scriptrunner", None)  # once the loop has taken all, and for a whole page at once
        if getattr(session, "_state", None) is states.SHUTDOWN_REQUESTED:
            return  # the tab has gone meanwhile
        if before is None:
            if not _is_of_the_page_before(asked, session):
                start(session, asked)
        elif not before.request_rerun(asked):  # that one has ended
            asyncio.get_running_loop().call_later(A_LOOK, start_after, session, asked)

    def run_unless_gone(runner, asked) -> None:
        if not _is_of_the_page_before(asked, runner):
            run(runner, asked)

    sessions._create_scriptrunner = start_after
    runners._run_script = run_unless_gone


def _is_of_the_page_before(asked, drawer) -> bool:
    """Whether a part is `asked` for of another page than the session, or its thread, has drawn last."""
    page = getattr(getattr(drawer, "_pages_manager", None), "current_page_script_hash", "")
    return bool(asked.fragment_id or asked.fragment_id_queue) and page not in ("", asked.page_script_hash)
