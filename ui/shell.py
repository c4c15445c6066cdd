"""What every page has: settings, navigation, the status strip, and errors that say what to do.

    with shell.page("Influence"):
        ...

With a plain `pages/` folder and `client.showSidebarNavigation = false`, each page draws the
navigation itself, so that a page which is the first request to a fresh server looks the same.
"""

import argparse
import contextlib
import functools
import gc
import os
import sys
import threading
import traceback

import streamlit as st

from engine import files, space
from engine.errors import ConfigError, IntegrityError, ReplayError, StorageError
from engine.jobs.queue import JobQueue
from engine.runs.progress import Progress, follow
from engine.runs.run import Run, list_runs, outputs_root
from ui import formats
from ui.text import line, plain

READ_ONLY = "Read-only: this app shows runs, and starts, deletes and writes nothing (REPLAY_READ_ONLY is set)."
HEAD = 48  # bytes of a log that tell it from one that was begun later
PAGES = (
    ("app.py", "Overview", ":material/home:"),
    ("pages/Set_up_a_run.py", "Set up a run", ":material/tune:"),
    ("pages/Live.py", "Live", ":material/monitoring:"),
    ("pages/Influence.py", "Influence", ":material/image_search:"),
    ("pages/Training_images.py", "Training images", ":material/photo_library:"),
    ("pages/Test_images.py", "Test images", ":material/grid_view:"),
    ("pages/Compare_runs.py", "Compare runs", ":material/compare_arrows:"),
    ("pages/Trust.py", "Trust", ":material/verified:"),
    ("pages/Find_bad_labels.py", "Find bad labels", ":material/label_off:"),
    ("pages/Runs_and_storage.py", "Runs and storage", ":material/database:"),
)


@contextlib.contextmanager
def page(title: str):
    """Draws the frame, then the page's own body, then any error of that body as a message.

    Yields a place in the sidebar, which stays in view while the page scrolls."""
    st.set_page_config(
        page_title=f"{title} · Replay Explorer" if title != "Replay Explorer" else title, page_icon="🔁", layout="wide"
    )
    drawn = False
    with guarded():
        with st.sidebar:
            st.markdown("**Replay Explorer**")
            for path, label, icon in PAGES:
                st.page_link(path, label=label, icon=icon)
            beside = st.container()
            st.divider()
            if files.read_only():
                st.caption(READ_ONLY)
        st.title(title)
        st.session_state["told"] = set()
        manager()  # here, where its error is shown: a fragment's would be a bare traceback
        with st.sidebar:
            _status_strip()
        if notice := st.session_state.pop("notice", None):
            st.success(notice, icon=":material/check:")
        drawn = True
    if not drawn:
        st.stop()
    with guarded():
        yield beside


@contextlib.contextmanager
def guarded():
    """Shows a `ReplayError` as what and remedy, and anything else with its traceback folded away."""
    try:
        yield
    except ReplayError as error:
        show_error(error.what, error.remedy)
    except Exception as error:
        show_error(
            f"This page stopped: {type(error).__name__}: {error}",
            "This was not foreseen; reload the page, and report the traceback if it stays.",
            traceback.format_exc(),
        )


def show_error(what: str, remedy: str, details: str | None = None) -> None:
    st.error(f"**{plain(what)}**  \n{plain(remedy)}", icon=":material/error:")
    if details:
        with st.expander("Traceback"):
            st.code("\n".join(map(line, details.splitlines())))


def show_error_once(what: str, remedy: str) -> None:
    """For what several parts of a page run into."""
    told = st.session_state.setdefault("told", set())
    if what not in told:
        told.add(what)
        show_error(what, remedy)


def acting(disabled: bool = False, help: str | None = None) -> dict:
    """Arguments of a widget that starts, deletes or writes: in read-only mode it is off, and says why."""
    return {"disabled": True, "help": READ_ONLY} if files.read_only() else {"disabled": disabled, "help": help}


def metrics(values: dict[str, str]) -> None:
    """A row of figures that wraps where the window is narrow."""
    with st.container(horizontal=True, gap="large"):
        for label, value in values.items():
            st.metric(label, value, width="content")


# The process's one worker for each folder of runs, shared by all tabs and sessions. Not in one of Streamlit's caches:
# any visitor may clear those, and a second worker would run beside the first, which nobody could cancel any more.
_managers: dict[str, JobQueue] = {}
_managers_lock = threading.Lock()


def manager() -> JobQueue:
    setting = _outputs_setting() or os.environ.get("REPLAY_OUTPUTS_DIR", "")
    with _managers_lock:
        if setting not in _managers:
            queue = _managers[setting] = JobQueue.of(outputs_root(setting))
            threading.Thread(target=_freeze_modules, args=(queue.loaded,), daemon=True).start()
        return _managers[setting]


def _freeze_modules(loaded: threading.Event) -> None:
    """Modules never become garbage. Streamlit collects after every page, and without this it would look through all of
    torch's each time, for 0.1 s and more. The app does it for its own process; the engine, a library, does not."""
    loaded.wait()
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()


def _outputs_setting() -> str | None:
    """DIR of `streamlit run app.py -- --outputs DIR`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--outputs")
    try:
        return parser.parse_known_args(sys.argv[1:])[0].outputs
    except argparse.ArgumentError:
        raise ConfigError(
            "The setting --outputs names no folder.", "Start the app with `streamlit run app.py -- --outputs DIR`."
        ) from None


def root():
    return manager().root


@functools.cache
def device() -> str:
    from engine.device import describe

    return describe()


def runs() -> list[Run]:
    try:
        return list_runs(root())
    except FileNotFoundError:
        raise StorageError(
            f"The folder of all runs, {root()}, is gone.", "Put it back (is its disk mounted?), or start the app again."
        ) from None


def chosen_run(candidates: list[Run], empty: str) -> Run:
    """The run of `?run=`, or one chosen from `candidates`; kept in the URL. Stops where there is none."""
    asked = st.query_params.get("run")
    if asked is not None and asked not in [r.id for r in candidates]:
        with guarded():  # says what is wrong with it; the others can still be chosen
            candidates = [Run.open(root(), asked), *candidates]
    if not candidates:
        st.info(empty, icon=":material/info:")
        st.page_link("app.py", label="Run the sample from the Overview", icon=":material/play_arrow:")
        st.stop()
    ids = [r.id for r in candidates]
    labels = {r.id: formats.run_label(r) for r in candidates}
    first = 0 if asked is None else ids.index(asked) if asked in ids else None
    chosen = st.selectbox(
        "Run", ids, index=first, format_func=labels.get, key=f"run-{asked}", placeholder="Choose another run"
    )
    if chosen is None:
        st.stop()
    if chosen != asked:
        st.query_params["run"] = chosen
    return next(r for r in candidates if r.id == chosen)


def no_scores(run: Run) -> None:
    """Says so, and where to go on."""
    # Cleaning sets `scored` to false; before the first replay it is not there at all.
    deleted = run.manifest().scored is False
    st.info(
        "The scores of this run were deleted."
        if deleted
        else f"This run has no scores yet; it is {plain(run.status)}.",
        icon=":material/info:",
    )
    st.page_link("pages/Live.py", label="See it on Live", query_params={"run": run.id}, icon=":material/monitoring:")


@st.fragment(run_every="2s")
def _status_strip() -> None:
    with guarded():
        _status()


def _status() -> None:
    if not files.read_only():
        # The first page need not wait for torch, which is loaded meanwhile.
        if manager().failure:
            st.caption("The engine cannot be loaded; the log of a run says why")
        else:
            st.caption(f"Computes on {device()}" if manager().loaded.is_set() else "The engine is being loaded")
    # The jobs of this process in their order; else what others, such as the command line, work on.
    active = manager().active() or [run.id for run in runs() if run.lock().is_held()]
    with contextlib.suppress(ReplayError):  # deleted in another tab between the two looks
        if active:
            _job(Run(root(), active[0]), len(active[1:]))
        else:
            st.caption("No run in progress")
    st.caption(f"Disk free: {formats.size(space.disk_free(root()))}")


def _job(run: Run, waiting: int) -> None:
    told = progress(run)
    st.page_link("pages/Live.py", label=f"In progress: {run.id}", query_params={"run": run.id})
    if waiting:
        st.caption(f"{formats.count(waiting, 'runs')} waiting")
    if told.paused:
        st.caption("Paused: it waits for space on the disk")
    step = f"step {told.step:,} of {told.steps:,}, " if told.steps else ""
    st.progress(
        told.fraction,
        text=f"{plain(formats.phase(told.phase))}, {step}{formats.duration(told.seconds_left)} left in this phase",
    )
    st.caption(formats.memory(told.meters))


def progress(run: Run) -> Progress:
    """The run's progress so far; this session reads each event once."""
    followed = st.session_state.setdefault("followed", {})
    path = run.events_log.path
    head = b""
    try:
        # A log that was deleted begins anew; its first line has another time then.
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            head = file.read(HEAD)
        told, offset, log, known = followed.get(run.id, (Progress(), 0, [], head))
        if known != head:
            told, offset, log = Progress(), 0, []
        events, offset = run.events(offset)
    except OSError as error:
        raise IntegrityError(
            f"{path} cannot be read ({error.strerror}).", "Make it readable, or delete the logs in Runs and storage."
        ) from error
    told = follow(told, events)
    log.extend(e for e in events if e["kind"] != "progress")
    followed[run.id] = told, offset, log, head
    return told


def log(run: Run) -> list[dict]:
    """The events that are no progress lines, as far as `progress` has read."""
    return st.session_state["followed"][run.id][2]
