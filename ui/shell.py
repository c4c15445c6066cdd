"""What every page has: settings, navigation, the status strip, and errors that say what to do.

    with shell.page("Influence"):
        ...

With a plain `pages/` folder and `client.showSidebarNavigation = false`, each page draws the
navigation itself, so that a page which is the first request to a fresh server looks the same.
"""

import contextlib
import traceback

import streamlit as st

from engine.errors import ReplayError
from engine.jobs import JobManager
from engine.progress import Progress, follow
from engine.runs import Run, list_runs, outputs_root
from ui import formats

PAGES = (
    ("app.py", "Overview", ":material/home:"),
    ("pages/Set_up_a_run.py", "Set up a run", ":material/tune:"),
    ("pages/Live.py", "Live", ":material/monitoring:"),
    ("pages/Influence.py", "Influence", ":material/image_search:"),
    ("pages/Runs_and_storage.py", "Runs and storage", ":material/database:"),
)


@contextlib.contextmanager
def page(title: str):
    """Draws the frame, then the page's own body, then any error of that body as a message."""
    st.set_page_config(page_title=f"{title} · Replay Explorer" if title != "Replay Explorer" else title,
                       page_icon="🔁", layout="wide")
    drawn = False
    with guarded():
        with st.sidebar:
            st.markdown("**Replay Explorer**")
            for path, label, icon in PAGES:
                st.page_link(path, label=label, icon=icon)
            st.divider()
            _status_strip()
        st.title(title)
        if notice := st.session_state.pop("notice", None):
            st.success(notice, icon=":material/check:")
        drawn = True
    if not drawn:
        st.stop()
    with guarded():
        yield


@contextlib.contextmanager
def guarded():
    """Shows a `ReplayError` as what and remedy, and anything else with its traceback folded away."""
    try:
        yield
    except ReplayError as error:
        show_error(error.what, error.remedy)
    except Exception as error:
        show_error(f"This page stopped: {type(error).__name__}: {error}",
                   "This was not foreseen; reload the page, and report the traceback if it stays.",
                   traceback.format_exc())


def show_error(what: str, remedy: str, details: str | None = None) -> None:
    st.error(f"**{_plain(what)}**  \n{_plain(remedy)}", icon=":material/error:")
    if details:
        with st.expander("Traceback"):
            st.code(details)


def metrics(values: dict[str, str]) -> None:
    """A row of figures that wraps where the window is narrow."""
    with st.container(horizontal=True, gap="large"):
        for label, value in values.items():
            st.metric(label, value, width="content")


def _plain(text: str) -> str:
    """Text with Markdown's signs made harmless."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>$~#|" else c for c in text)


@st.cache_resource
def manager() -> JobManager:
    """The process's one worker, shared by all tabs and sessions."""
    return JobManager(outputs_root())


def root():
    return manager().root


@st.cache_data(show_spinner=False)
def device() -> str:
    from engine.device import describe
    return describe()


def runs() -> list[Run]:
    return list_runs(root())


def chosen_run(candidates: list[Run], empty: str) -> Run:
    """The run of `?run=`, or one chosen from `candidates`; kept in the URL. Stops where there is none."""
    asked = st.query_params.get("run")
    if asked is not None and asked not in [r.id for r in candidates]:
        run = Run.open(root(), asked)           # raises what is wrong with it
        candidates = [run, *candidates]
    if not candidates:
        st.info(empty, icon=":material/info:")
        st.page_link("app.py", label="Run the sample from the Overview", icon=":material/play_arrow:")
        st.stop()
    ids = [r.id for r in candidates]
    labels = {r.id: formats.run_label(r) for r in candidates}
    chosen = st.selectbox("Run", ids, index=ids.index(asked) if asked else 0,
                          format_func=labels.get, key=f"run-{asked}")
    if chosen != asked:
        st.query_params["run"] = chosen
    return next(r for r in candidates if r.id == chosen)


@st.fragment(run_every="2s")
def _status_strip() -> None:
    st.caption(f"Computes on {device()}")
    active = manager().active()
    if not active:
        st.caption("No run in progress")
        return
    run = Run(root(), active[0])
    with contextlib.suppress(ReplayError):      # deleted in another tab between the two looks
        told = progress(run)
        waiting = formats.count(len(active[1:]), "runs")
        st.caption(f"In progress: {run.id}" + (f", {waiting} waiting" if active[1:] else ""))
        st.progress(told.fraction, text=f"{formats.PHASES[told.phase]}, step {told.step:,} of {told.steps:,}, "
                                        f"{formats.duration(told.seconds_left)} left")


def progress(run: Run) -> Progress:
    """The run's progress so far; this session reads each event once."""
    followed = st.session_state.setdefault("followed", {})
    told, offset, log = followed.get(run.id, (Progress(), 0, []))
    events, offset = run.events(offset)
    told = follow(told, events)
    log.extend(e for e in events if e["kind"] != "progress")
    followed[run.id] = told, offset, log
    return told


def log(run: Run) -> list[dict]:
    """The events that are no progress lines, as far as `progress` has read."""
    return st.session_state["followed"][run.id][2]
