"""What every page has: settings, navigation, the status strip, and errors that say what to do.

    with shell.page("Influence"):
        ...

With a plain `pages/` folder and `client.showSidebarNavigation = false`, each page draws the
navigation itself, so that a page which is the first request to a fresh server looks the same.
"""

import argparse
import contextlib
import dataclasses
import functools
import gc
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import streamlit as st

from engine import __version__, files, loading, space
from engine.errors import ConfigError, ReplayError
from engine.jobs import giving_way
from engine.jobs.job import Job
from engine.jobs.queue import JobQueue
from engine.runs import notes
from engine.runs.manifest import IN_PROGRESS, Manifest
from engine.runs.run import Run, Summary, outputs_root, summaries
from ui import formats, imported, progress, run_names, trim
from ui.navigation import NAVIGATION
from ui.text import line, plain

READ_ONLY = "Read-only: look at everything; nothing can be started, changed or deleted here."
FROM_PYTHON = (
    "This run was saved from Python, and its model is there alone: go on with engine.load(RUN, model) and attribute or "
    "retrain (docs/python.md)."
)
ABOUT = f"""
**Replay Explorer** {__version__}

Which training images made the model say this about that image? Exact data attribution, by replaying training backwards.
"""
STYLE = f"<style>{(Path(__file__).parent / 'shell.css').read_text(encoding='utf-8')}</style>"
A_LOOK = 2.0  # seconds for which a look at all runs holds for the lists of other tabs


@contextlib.contextmanager
def page(title: str):
    """Draws the frame, then the page's own body, then any error of that body as a message; jobs wait meanwhile, for a
    moment (`engine.jobs.giving_way`).

    Yields a place in the sidebar, which stays in view while the page scrolls."""
    try:
        with giving_way.drawing(), _framed(title) as panel:
            yield panel
    finally:
        trim.soon()


@contextlib.contextmanager
def _framed(title: str):
    st.set_page_config(
        page_title=f"{title} · Replay Explorer" if title != "Replay Explorer" else title,
        page_icon="🔁",
        layout="wide",
        menu_items={"About": ABOUT},  # with an entry of the app's own, the menu shows the choice of theme, too
    )
    st.html(STYLE)
    framed = False
    with guarded():
        with st.sidebar:
            st.markdown("**Replay Explorer**")
            with st.container(key="navigation"):
                st.session_state["navigation"] = st.empty()
            draw_navigation()
            panel = st.container()
            st.divider()
            if files.read_only():
                with st.container(key="read-only"):
                    st.caption(READ_ONLY)
        st.title(title)
        st.session_state.update({"page": title, "remarks": st.container(), "errors shown": set(), "run changed": False})
        queue()  # here, where its error is shown: a fragment's would be a bare traceback
        all_runs(fresh=True)  # for all of this page
        with st.sidebar:
            _status_strip()
        if notice := st.session_state.pop("notice", None):
            st.success(notice, icon=":material/check:")
        framed = True
    if not framed:
        st.stop()
    with guarded():
        yield panel


def draw_navigation() -> None:
    """The links to all pages, with what a person has in hand (`run_choice.hold`); drawn again where that changes."""
    hand = st.session_state.get("in hand", {})
    with st.session_state["navigation"].container(gap="xsmall"):
        for caption, links in NAVIGATION.items():
            if caption:
                st.caption(caption)
            for link in links:
                if files.read_only() and not link.guests:
                    continue
                taken = {name: hand[name] for name in link.carries if name in hand}
                st.page_link(link.path, label=link.label, icon=link.icon, query_params=taken or None)


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
    shown = st.session_state.setdefault("errors shown", set())
    if what not in shown:
        shown.add(what)
        show_error(what, remedy)


def shows() -> str:
    """What the page that is drawn shows of a run, for where there is none to show."""
    pages = (link for links in NAVIGATION.values() for link in links)
    return next((link.shows for link in pages if link.label == st.session_state["page"]), "")


def acting(disabled: bool = False, help: str | None = None, model_of: Manifest | None = None) -> dict:
    """Arguments of a widget that starts, deletes or writes: in read-only mode it is off, and says why; a button that is
    off then is not shown (shell.css). `model_of`: it needs the model of this run, which may not be here (`away`); it is
    off then, and says so."""
    if files.read_only():
        return {"disabled": True, "help": READ_ONLY}
    if model_of is not None and not model_of.has_model:
        return {"disabled": True, "help": away(model_of)}
    return {"disabled": disabled, "help": help}


def away(record: Manifest) -> str:
    """Why the model of a run is not here: it was saved from Python, or has scores that were made elsewhere. "" where
    it is."""
    if record.method:
        return imported.phrase(record, "this")
    return FROM_PYTHON if record.from_python else ""


def metrics(values: dict[str, str], helps: Mapping[str, str] = MappingProxyType({})) -> None:
    """A row of figures that wraps where the window is narrow; `helps` says of some, by label, what they mean."""
    with st.container(horizontal=True, gap="medium"):
        for label, value in values.items():
            st.metric(label, value, width="content", help=helps.get(label))


# The process's one worker for each folder of runs, shared by all tabs and sessions. Not in one of Streamlit's caches:
# any visitor may clear those, and a second worker would run beside the first, which nobody could cancel any more.
_queues: dict[str, JobQueue] = {}
_queues_lock = threading.Lock()


def queue() -> JobQueue:
    setting = _outputs_setting() or os.environ.get("REPLAY_OUTPUTS_DIR", "")
    with _queues_lock:
        if setting not in _queues:
            _queues[setting] = JobQueue.of(outputs_root(setting))
            if len(_queues) == 1:
                threading.Thread(target=_freeze_modules, args=(_queues[setting].loaded,), daemon=True).start()
        return _queues[setting]


def _freeze_modules(loaded: threading.Event) -> None:
    """Modules never become garbage. Streamlit collects after every page and each part of one that is drawn by itself,
    and without this it would look through all of torch's each time, for 0.1 s and more; and for as long again through
    what the first training loads. The app does it for its own process; the engine, a library, does not."""
    for each in (loaded, loading.derivatives_loaded):
        each.wait()
        gc.collect()
        gc.freeze()


def _outputs_setting() -> str | None:
    """DIR of `streamlit run app.py -- --outputs DIR`."""
    return _outputs_of(tuple(sys.argv[1:]))


@functools.lru_cache(maxsize=4)  # a page asks some ten times
def _outputs_of(words: tuple[str, ...]) -> str | None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--outputs")
    try:
        return parser.parse_known_args(words)[0].outputs
    except argparse.ArgumentError:
        raise ConfigError(
            "The setting --outputs names no folder.", "Start the app with `streamlit run app.py -- --outputs DIR`."
        ) from None


def submit(run_id: str, job: Job) -> None:
    """Queues a job of a run and goes on to *Live*, which shows it, and in the end leads back to this page. Raises what
    is wrong with the job."""
    hand = st.session_state.get("in hand", {})
    about = hand.get("target", "") if hand.get("run") == run_id else ""
    queue().submit(run_id, job, st.session_state.get("page", ""), about)
    st.switch_page("pages/Live.py", query_params={"run": run_id})


def root() -> Path:
    return queue().root


def folder_of_runs() -> Path:
    """`root`, for the server before its first page: no worker is started."""
    return outputs_root(_outputs_setting())


@functools.cache
def device() -> str:
    from engine.device import describe

    return describe()


_looks: dict[Path, tuple[float, int, list[Summary]]] = {}  # by folder: when, the folder's own time, and what it held
_looks_lock = threading.Lock()  # tabs that open together look once


def all_runs(fresh: bool = False) -> list[Summary]:
    """What a list shows of every run, newest first. Every drawing of a page begins with a `fresh` look. Else runs that
    are new or gone are known, but what changed within `A_LOOK` need not be: the strips of all tabs share one look."""
    folder = root()
    with _looks_lock:
        at, changed, runs = _looks.get(folder, (-A_LOOK, 0, []))
        if fresh or time.monotonic() - at > A_LOOK or changed != _time_of(folder):
            changed = _time_of(folder)
            runs = list(map(named, summaries(folder)))
            _looks[folder] = time.monotonic(), changed, runs
        return list(runs)


def named(run: Summary) -> Summary:
    """With the name that a person gave it."""
    name = "" if run.remark else notes.name_of(Run(root(), run.id))
    return dataclasses.replace(run, name=name) if name else run


def _time_of(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return -1  # `summaries` says what is wrong


@st.fragment(run_every=A_LOOK)
def _status_strip() -> None:
    with guarded():
        _status()


def _status() -> None:
    engine = queue()
    if not files.read_only():
        _engine_state(engine)
    # The jobs of this process in their order; else what others, such as the command line, work on.
    names = run_names.labels(all_runs())
    active = engine.active() or [run.id for run in all_runs() if run.status in IN_PROGRESS]
    with contextlib.suppress(ReplayError):  # deleted in another tab between the two looks
        if active:
            _job(Run(root(), active[0]), len(active[1:]), names.get(active[0], active[0]))
        else:
            st.caption("No run in progress")
    _ended(active)
    st.caption(f"Disk free: {formats.size(space.disk_free(root()))}")


def _engine_state(engine: JobQueue) -> None:
    # The first page need not wait for torch, which is loaded meanwhile.
    if engine.failure:
        st.caption(f"The engine cannot be loaded, so that no run can start: {plain(engine.failure)}")
    elif engine.loaded.is_set():
        st.caption(f"Computes on {plain(device())}")
    else:
        st.caption("The engine is being loaded")


def _ended(active: list[str]) -> None:
    """The way to what came of the job that this person started, or watched on *Live*, once it is over."""
    watched = st.session_state.get("watched")
    if watched and watched not in active and watched in {run.id for run in all_runs()}:
        st.page_link(
            "pages/Live.py",
            label="Your job has ended: see the result",
            icon=":material/task_alt:",
            query_params={"run": watched},
        )


def _job(run: Run, waiting: int, name: str) -> None:
    now = progress.of(run)
    st.page_link("pages/Live.py", label=f"In progress: {plain(name)}", query_params={"run": run.id})
    if waiting:
        st.caption(f"{formats.count(waiting, 'runs')} waiting")
    if now.paused:
        st.caption("Paused: it waits for space on the disk")
    if queue().is_stopping(run.id):
        st.caption("Stopping …")
    step = f", step {now.step:,} of {now.steps:,}" if now.steps else ""
    left, of = (now.seconds_left, " in this phase") if now.seconds_in_all is None else (now.seconds_in_all, " in all")
    told = "" if left is None else f", {formats.duration(left)} left{of}"
    st.progress(now.fraction, text=f"{plain(formats.phase(now.phase))}{step}{told}")
    st.caption(formats.memory(now.meters))
