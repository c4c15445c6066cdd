"""What a person does is done whole, and what a page has drawn reaches the browser, also on a machine with much to do.

Streamlit (1.67) runs a page in a thread, and all that its buttons do. It is made for pages where nothing is lost when a
click is; here each of these was seen to lose something:

*Two clicks in a row.* The second is given to another thread at once, and the first thread leaves what it is doing where
it draws something or reads a value next, or never begins. So what the first click does (`on_click`) runs beside what
the second does, and may write last; or it is done by half; or a click that the page has not come to (`if st.button(…)`)
is lost. Here a click waits until the one before is done; for what a page does itself no longer than `PATIENCE`, so that
one can leave a page that computes.

*A thread that ends.* When it has drawn the page it clears away what no page has any more: values of widgets, parts,
files. If the next thread has begun by then, that takes away what the next has just drawn, and what is clicked there
does nothing, or the page fails over a value that it has itself written. Here a thread begins when the one that clears
away has ended, and one in whose place another draws clears nothing away. Each thread of a tab also has a lock of its
own on the values that they share; here all have one.

*A click that a timer finds on its way.* The browser gathers what is done in a moment, and says it in the next. If a
timer asks for its part in between, that message says the click as well, and the one that follows says it again: it is
done twice. Here no timer's message says a click.

*A part that is drawn by itself* (a fragment; those with `run_every` are asked for every two seconds) waits for that
thread, and is then drawn by it. But where it is asked for when the thread has ended, and the server's loop has not yet
taken all that was handed over, another thread is started, and the loop throws away what is left of the first: the page
stays as it was before the last click, until the next one. That takes a loop that is late. Here whatever is asked for
then waits until the loop has taken all.

*A part of the page before.* A part with `run_every` is also asked for by a browser that has not heard yet that the page
is another one by now (`st.switch_page`). Where both pages have that part, Streamlit draws it and says that it is of the
page before; so the browser, which shows the new page by then, clears that away, and has no place for whatever comes
after («Bad delta path»): a page without content until it is loaded again. Here nothing is drawn of a page that is not
there any more.

*An address on its way.* What a page writes to its URL reaches the browser a moment later, and a click made till then
says the URL of before: as if the person had gone back, so that the choice before that click was taken back. Here such
a message says the URL that its page has written. A real «back» says that it is one.

*A file that is made when it is asked for.* Each drawing gives it another name and forgets the one before; a browser
that has not been told yet asks for what is not there any more, and nothing comes. And what was made is forgotten when
two drawings more have ended, of whichever tab, though the browser may not have come to fetch it. Here the names of
before hold on for `KEPT` seconds, and so does what no drawing has.

*A value that the app gives a widget* may be replaced by what a late browser still says of it: `ui.given_values`.

Streamlit offers no place for any of these, so methods of its classes are wrapped; a later Streamlit that has no such
methods is left as it is, and the server's log says so.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

from ui import given_values

A_LOOK = 0.005  # seconds between two looks at whether what waits can go on

PATIENCE = 3.0  # seconds, at most, that a click waits for one that the page itself answers

KEPT = 30.0  # seconds that a file, or the name of one to be made, holds on after no page has it any more

_HELD = "held"  # beside the sessions, which have longer names: the names that hold on

_log = logging.getLogger(__name__)


def in_order() -> None:
    """For every page of this process, from now on."""
    for mend in (_addresses, _in_turn, _names_that_hold, given_values.count):
        try:
            mend()
        except (AttributeError, ImportError) as error:
            _log.warning("This Streamlit works otherwise (%s): not all of ui/delivery.py is in use.", error)


def _in_turn() -> None:
    from streamlit.runtime.app_session import AppSession, AppSessionState
    from streamlit.runtime.fragment import MemoryFragmentStorage
    from streamlit.runtime.scriptrunner import ScriptRunner
    from streamlit.runtime.scriptrunner_utils.script_requests import ScriptRequests
    from streamlit.runtime.state.safe_session_state import SafeSessionState

    sessions: Any = AppSession
    runners: Any = ScriptRunner
    requests: Any = ScriptRequests
    states: Any = SafeSessionState
    parts: Any = MemoryFragmentStorage
    ask, start, run = sessions.request_rerun, sessions._create_scriptrunner, runners._run_script
    begin, do = requests.on_scriptrunner_ready, states.on_script_will_rerun
    end, forget, make = runners._on_script_finished, parts.clear, runners.__init__
    rows: WeakKeyDictionary[AppSession, deque[Callable[[], bool]]] = WeakKeyDictionary()  # what waits, of each tab
    looking: WeakSet[AppSession] = WeakSet()  # tabs for which `go_on` is to be called in a moment
    drawers: WeakKeyDictionary[AppSession, ScriptRunner] = WeakKeyDictionary()  # the last of each tab, ended or not
    locks: WeakValueDictionary[str, Any] = WeakValueDictionary()  # by the session's id
    here = threading.local()  # .requests: those of the runner whose thread this is

    # In the server's loop.

    def go_on(session) -> None:
        """Does what waits, until something has to wait on."""
        looking.discard(session)
        row = rows.setdefault(session, deque())
        while row and session._state is not AppSessionState.SHUTDOWN_REQUESTED:
            first = row.popleft()
            if not first():
                wait(session, first)
                return
        row.clear()

    def wait(session, first) -> None:
        rows.setdefault(session, deque()).appendleft(first)
        if session not in looking:
            looking.add(session)
            session._event_loop.call_later(A_LOOK, go_on, session)

    def ask_in_turn(session, asked) -> None:
        """What a person does waits for what they did before; what a timer asks for does not."""
        if asked is not None and asked.is_auto_rerun:
            _leave_out_clicks(asked.widget_states.widgets)
            ask(session, asked)
            return

        def first() -> bool:
            if _has_clicks_to_do(session._scriptrunner):
                if asked is not None:
                    del asked.cached_message_hashes[:]  # the browser may have other messages by then
                return False
            ask(session, asked)
            return True

        row = rows.setdefault(session, deque())
        row.append(first)
        if len(row) == 1:
            go_on(session)

    def start_after(session, asked) -> None:
        """Starts the thread that draws what is `asked` for, once nothing is on its way from the one before, and that
        clears nothing away any more."""

        def first() -> bool:
            before = session._scriptrunner  # None at once for a whole page: it was told to stop
            if before is not None:
                return before.request_rerun(asked)  # not where it has ended
            if _clears_away(drawers.get(session)):
                return False
            if not _is_of_the_page_before(asked, session):
                start(session, asked)
                drawers[session] = session._scriptrunner
            return True

        if not first():
            wait(session, first)

    # In a runner's thread.

    def begin_with(requests):
        requests.busy_until = math.inf
        request = begin(requests)
        asked = request.rerun_data if request.type.value == "RERUN" else None
        requests.busy_until = math.inf if asked is not None and _is_by_a_person(asked) else 0.0
        return request

    def run_unless_gone(runner, asked) -> None:
        here.requests = runner._requests
        try:
            if not _is_of_the_page_before(asked, runner):
                run(runner, asked)
        finally:
            here.requests.busy_until = 0.0

    def do(state, asked, *, exact=do, **more) -> None:
        here.requests.ends = False
        try:
            exact(state, asked, **more)
        finally:
            clicks = asked.widgets if asked is not None else ()
            more_to_do = any(_is_left_to_the_page(state, each) for each in clicks)
            here.requests.busy_until = time.monotonic() + PATIENCE if more_to_do else 0.0

    def forget_unless_replaced(storage, new_fragment_ids=None) -> None:
        if _may_clear_away(here.requests):
            forget(storage, new_fragment_ids)

    def end_unless_replaced(runner, ctx, event, premature_stop, run_descriptor) -> None:
        if not _may_clear_away(runner._requests):
            ctx, premature_stop = SimpleNamespace(has_script_started=False), True
        end(runner, ctx, event, premature_stop, run_descriptor)

    def make_with_one_lock(runner, session_id, *args, **more) -> None:
        make(runner, session_id, *args, **more)
        lock = runner._session_state._lock
        object.__setattr__(runner._session_state, "_lock", locks.setdefault(session_id, lock))

    sessions.request_rerun, sessions._create_scriptrunner = ask_in_turn, start_after
    requests.on_scriptrunner_ready, runners._run_script, states.on_script_will_rerun = begin_with, run_unless_gone, do
    runners._on_script_finished, parts.clear = end_unless_replaced, forget_unless_replaced
    runners.__init__ = make_with_one_lock


def _has_clicks_to_do(runner) -> bool:
    """Whether what a person has asked this thread for is still to be done, but for the drawing."""
    if runner is None:
        return False
    requests = runner._requests
    to_begin = requests._state.value == "RERUN" and _is_by_a_person(requests._rerun_data)
    return to_begin or time.monotonic() < getattr(requests, "busy_until", 0.0)


def _may_clear_away(requests) -> bool:
    """For a runner's thread: whether it was not told to stop, which it is where another begins in its place. From then
    on `_clears_away`, until it has ended or begins anew."""
    with requests._lock:
        requests.ends = requests._state.value != "STOP"
        return requests.ends


def _clears_away(runner) -> bool:
    """Whether the thread has drawn all, and what it clears away would be what another draws."""
    return runner is not None and getattr(runner._requests, "ends", False) and runner._script_thread.is_alive()


def _is_by_a_person(asked) -> bool:
    """Whether more than what a timer asks for: a whole page, or a part with a click in it."""
    clicks = asked.widget_states.widgets if asked.widget_states is not None else ()
    return not asked.fragment_id_queue or any(
        given_values.is_click(each) for each in clicks if each.id != given_values.ASKED
    )


def _leave_out_clicks(widgets) -> None:
    """Of a timer's message, which says clicks that the next message says."""
    others = [each for each in widgets if not given_values.is_click(each)]
    del widgets[:]
    widgets.extend(others)


def _is_left_to_the_page(state, widget) -> bool:
    """Whether this is a click that no `on_click` has answered, so that the page does (`if st.button(…)`)."""
    if not widget.trigger_value:
        return False
    known = state._state._new_widget_state.widget_metadata.get(widget.id)
    return known is not None and known.callback is None and not known.callbacks


def _is_of_the_page_before(asked, drawer) -> bool:
    """Whether a part is `asked` for of another page than the session, or its thread, has drawn last."""
    page = getattr(getattr(drawer, "_pages_manager", None), "current_page_script_hash", "")
    return bool(asked.fragment_id or asked.fragment_id_queue) and page not in ("", asked.page_script_hash)


def _addresses() -> None:
    from streamlit.runtime.app_session import AppSession
    from streamlit.runtime.scriptrunner_utils.script_run_context import get_script_run_ctx
    from streamlit.runtime.state.query_params import QueryParams

    sessions: Any = AppSession
    urls: Any = QueryParams
    ask, send = sessions.request_rerun, urls._send_query_param_msg

    def send_and_keep(params) -> None:
        send(params)
        if (context := get_script_run_ctx()) is not None:
            vars(params)["written"] = context.page_script_hash, context.query_string

    def ask_of_what_is_written(session, asked) -> None:
        if asked is not None and not asked.is_auto_rerun:
            of_tab = vars(session._session_state.query_params)
            said = asked.page_script_hash, asked.query_string
            before, of_tab["said"] = of_tab.get("said"), said
            if said != before or asked.is_history_navigation:
                of_tab.pop("written", None)  # the browser has it by now, or has left it
            page, written = of_tab.get("written", (None, ""))
            if page == asked.page_script_hash:
                asked.query_string = written
        ask(session, asked)

    sessions.request_rerun, urls._send_query_param_msg = ask_of_what_is_written, send_and_keep


def _names_that_hold() -> None:
    from streamlit.runtime.media_file_manager import MediaFileManager

    managers: Any = MediaFileManager
    forget, unused = managers._remove_orphaned_deferred_callables, managers._get_inactive_file_ids

    def is_for_long(record: dict[str, Any]) -> bool:
        """Of what no drawing has: whether none had it `KEPT` seconds ago. Its own record says since when."""
        now = time.monotonic()
        return now - record.setdefault("unused_since", now) >= KEPT

    def forget_later(manager) -> None:
        """For who holds the manager's lock."""
        known, by_session = manager._deferred_callables, manager._files_by_session_and_coord
        drawn = {name for names in by_session.values() for name in names.values()}
        by_session[_HELD] = {name: name for name in known.keys() - drawn if not is_for_long(known[name])}
        try:
            forget(manager)
        finally:
            del by_session[_HELD]

    def unused_for_long(manager) -> set[str]:
        """Likewise, the files to be forgotten. One that is made anew has a new record."""
        return {name for name in unused(manager) if is_for_long(vars(manager._file_metadata[name]))}

    managers._remove_orphaned_deferred_callables, managers._get_inactive_file_ids = forget_later, unused_for_long
