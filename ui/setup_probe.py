"""«Will this recipe be trustworthy?»: measured before anything is run, at a cost that is said before."""

import streamlit as st

from engine.analysis.trust import LEVELS
from engine.config import RunConfig
from engine.errors import ReplayError
from engine.jobs import probe
from engine.jobs.probe import Probing
from ui import formats, setup_estimate, shell
from ui.setup_draft import Form
from ui.text import plain

KEY = "probing"  # the probe that this tab looks at
WHAT = (
    "Scores say what happens without an image only where training answers to small changes smoothly. This trains four "
    "times over the first part of the steps, with slightly other weights of the images, and compares the ends."
)


def draw(form: Form, loaded: bool) -> None:
    """What is known of the recipe, and a button that measures it. Without the engine nothing is measured."""
    st.subheader("Will this recipe be trustworthy?")
    if form.dataset is None or form.problems.keys() - {"targets", "target_function"}:
        st.caption("This can be measured once the settings are in range.")
        return
    with shell.guarded():
        report = probe.known(shell.root(), form.config)
        if report is not None:
            draw_verdict(report)
        probing = in_hand(form)
        if probing is not None:
            follow(probing)
        elif loaded:
            offer(form, again=report is not None)


def draw_verdict(report: probe.Report) -> None:
    level, reason = report.verdict
    words = f"**{level.capitalize()}.** {plain(reason)}"
    if level == LEVELS[0]:
        st.success(words, icon=":material/verified:")
    elif level == LEVELS[1]:
        st.warning(words, icon=":material/warning:")
    else:
        st.error(words, icon=":material/error:")


def in_hand(form: Form) -> Probing | None:
    """The probe of this very training that waits or works, whoever asked for it; or the last one of this tab, which
    was cancelled or failed, to be told once."""
    assert form.dataset is not None
    fingerprint = form.dataset.fingerprint
    same = digest_of(form.config, fingerprint)
    mine: Probing | None = st.session_state.get(KEY)
    for each in shell.queue().probes():
        if each.config.dataset == form.config.dataset and digest_of(each.config, fingerprint) == same:
            return each
    if mine is not None and mine.ends:
        st.session_state.pop(KEY)
        if isinstance(mine.error, ReplayError):
            shell.show_error(mine.error.what, mine.error.remedy)
    return None


def digest_of(config: RunConfig, fingerprint: str) -> tuple[str, float]:
    """Of what a probe measures: a training, and from where its weights count."""
    return config.training_digest(fingerprint), config.window


@st.fragment(run_every=1.0)
def follow(probing: Probing) -> None:
    """How far it is; the page is drawn again once it has ended."""
    if probing.ends:
        st.session_state[KEY] = probing
        st.rerun()
    share = probing.step / probing.steps if probing.steps else 0.0
    words = "Waits until the work in hand is done" if probing.state == "queued" else "Trains four times"
    left = "" if probing.seconds_left is None else f", {formats.duration(probing.seconds_left)} left"
    st.progress(min(share, 1.0), text=f"{words}: step {probing.step:,} of {probing.steps:,}{left}")
    st.button(
        "Cancel the measurement", key="cancel-probe", icon=":material/close:", on_click=probing.cancel, **shell.acting()
    )


def offer(form: Form, again: bool) -> None:
    """Two clicks: what it costs, which takes some steps to measure, and the start."""
    cost = known_cost(form)
    if cost is None:
        st.caption(WHAT)
        label = "Say what measuring again costs" if again else "Say what measuring costs"
        if st.button(f"{label} (a second or two)", key="cost-of-probe", icon=":material/timer:", **shell.acting()):
            with st.spinner("Some steps are timed …"):
                st.session_state["probe-cost"] = key_of(form), probe.cost(form.config)
            st.rerun()
        return
    st.caption(
        f"{WHAT} {cost.trainings} trainings, {cost.steps:,} steps in all: about {formats.duration(cost.seconds)} on "
        "this machine."
    )
    label = "Measure the smoothness again" if again else "Measure the smoothness"
    if st.button(f"{label} ({formats.duration(cost.seconds)})", key="probe", icon=":material/speed:", **shell.acting()):
        st.session_state[KEY] = shell.queue().probe(form.config)
        st.rerun()


def key_of(form: Form) -> str:
    assert form.dataset is not None
    return f"{digest_of(form.config, form.dataset.fingerprint)} {form.config.device}"


def known_cost(form: Form) -> probe.Cost | None:
    """Of what was measured for the estimate, or for this."""
    measured, expected, _ = st.session_state.get("measured", ("", None, False))
    if measured == setup_estimate.key_of(form.config) and expected.train_seconds is not None:
        return probe.cost(form.config, expected.train_seconds)
    key, cost = st.session_state.get("probe-cost", ("", None))
    return cost if key == key_of(form) else None
