"""What the run will take, in view all the time: disk, memory and time below the form, beside the button that starts."""

import json
import time

import streamlit as st

from engine import config_file
from engine.config import RunConfig
from engine.errors import ReplayError
from engine.jobs import estimate
from engine.jobs.estimate import Estimate
from ui import download, formats, shell
from ui.setup_draft import Form, label
from ui.text import plain

NOT_OF_SIZE = ("preset", "replay_mode", "clean_when_done")  # an estimate covers every mode
# The bar is as low as its content, and told from what scrolls behind it.
STYLE = """<style>
[data-testid="stBottomBlockContainer"] {padding-top: 0.6rem; padding-bottom: 0.8rem}
[data-testid="stBottom"] {border-top: 1px solid rgba(128, 140, 150, 0.35)}
</style>"""
HOLDS = 10.0  # seconds for which what is free counts as it was


def key_of(config: RunConfig) -> str:
    return json.dumps({k: v for k, v in config.to_dict().items() if k not in NOT_OF_SIZE}, sort_keys=True)


def of(form: Form) -> tuple[Estimate | None, ReplayError | None]:
    """The estimate of these settings: the measured one where there is one, else from the model's shapes; or what is
    wrong with the settings that only building the model shows. It loads torch."""
    key = key_of(form.config)
    if st.session_state.get("measured", ("",))[0] == key:
        return st.session_state["measured"][1], None
    known, at, found = st.session_state.get("estimated", ("", 0.0, None))
    if known != key or time.monotonic() - at > HOLDS:
        try:
            found = estimate.estimate(form.config, shell.root()), None
        except ReplayError as error:
            found = None, error
        st.session_state["estimated"] = key, time.monotonic(), found
    return found


def wait_for_engine(place) -> bool:
    """Until torch is loaded, which a first page need not wait for; False where it cannot be."""
    engine = shell.queue()
    while not engine.loaded.wait(0.1):
        if engine.failure:
            return False
        place.caption("Sizes and pictures follow once the engine is loaded, in a few seconds.")
    return True


# -- measuring


def draw_measure(form: Form) -> None:
    """A button that measures time and memory, beside what was measured."""
    key = key_of(form.config)
    known, _, was_busy = st.session_state.get("measured", ("", None, False))
    in_progress = bool(shell.queue().active())
    words = "Measure again" if known == key else "Measure on this machine"
    with shell.guarded():
        if st.button(f"{words} (some seconds)", icon=":material/timer:", key="measure", **shell.acting()):
            with st.spinner("Measuring: a few steps of this model, data and targets, forwards and backwards …"):
                expected = estimate.estimate(form.config, shell.root(), measure=True)
            st.session_state["measured"] = key, expected, in_progress
            st.rerun()  # for everything that shows it
    if known != key:
        st.caption(
            "Sizes follow from the model and the settings. Time, and memory at the peak, are measured: a few "
            "steps of the very model, data and targets, and a few writes to the outputs folder."
        )
    if known == key and was_busy:
        st.warning(
            "This was measured while a run was in progress, so its times are too long.", icon=":material/warning:"
        )
    elif in_progress and known != key:
        st.warning(
            "A run is in progress: times measured now will be too long, because the machine is busy.",
            icon=":material/warning:",
        )


# -- the bar below the form


def draw_bar(form: Form, expected: Estimate | None, error: ReplayError | None) -> None:
    st.html(STYLE)
    with st.container(horizontal=True, vertical_alignment="center", key="setup-bar"):
        missing = what_is_missing(form, error)
        if missing:
            st.markdown(f":material/error: {missing}")
        elif expected is not None:
            st.markdown(in_words(form, expected))
        fits = expected is not None and not expected.modes[form.config.replay_mode].problem
        download.button(
            "TOML",
            config_file.dumps(form.config) if not form.problems else "",
            f"{form.config.preset}.toml",
            mime="application/toml",
            disabled=bool(form.problems),
            help="Every setting as one file: for python -m engine run --config FILE, or to start from here another "
            "time.",
            key="download-toml",
        )
        if st.button(
            "Start the run",
            type="primary",
            icon=":material/play_arrow:",
            **shell.acting(disabled=not (form.ready and fits and error is None)),
        ):
            with shell.guarded():
                run_id = shell.queue().start(form.config)
                st.switch_page("pages/Live.py", query_params={"run": run_id})


def what_is_missing(form: Form, error: ReplayError | None) -> str:
    """Why nothing can be started, as Markdown; empty where it can."""
    if form.problems:
        return f"To be corrected: {plain(', '.join(label(name) for name in form.problems))}."
    if form.dataset is None:
        return "The data set cannot be had."
    if error is not None:
        return plain(error.what)
    failure = shell.queue().failure
    return f"The engine cannot be loaded: {plain(failure)}" if failure else ""


def in_words(form: Form, expected: Estimate) -> str:
    mode = expected.modes[form.config.replay_mode]
    stays = expected.modes["memory"] if form.config.clean_when_done else mode
    timed = mode.seconds is not None
    figures = [
        f"Disk **{formats.size(stays.disk)}**, **{formats.size(mode.disk_peak)}** at the peak",
        f"Memory **{formats.size(mode.ram)}**{'' if timed else ' beside that of the engine'}",
        *([f"GPU memory **{formats.size(mode.gpu)}**"] if expected.gpu_free else []),
        f"Time **{formats.duration(mode.seconds) if timed else 'not measured'}**",
    ]
    return f"{':material/warning: ' if mode.problem else ''}{' · '.join(figures)}"
