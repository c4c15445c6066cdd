"""Overview: what this is, one button that runs the sample, and the recent runs. And the server of all pages.

`streamlit run app.py` finds `app` below and serves it; for each look at the Overview, Streamlit runs the file itself.
"""

import math
import os

# Threads of a pass that wait for each other should sleep rather than spin: beside a browser on the same two cores,
# spinning made training four times slower. OpenMP reads this when torch is loaded, which is later.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import streamlit as st
from starlette.middleware import Middleware

from engine import config
from engine.jobs import speed
from engine.runs.run import Summary
from ui import formats, hosts, shell, stopping
from ui.text import plain

RECENT = 8  # runs
A_LOOK = 2.0  # seconds between looks at whether the machine's speed is known
ROUND = 5  # seconds to which a time is said
TOUR = """
1. **Run** the sample, or set up a run of your own: a classifier is trained, and its training replayed backwards.
2. **Look** on *Influence* at the training images that helped and harmed a target most, and on *Trust* at how far to
   rely on that.
3. **Act**: tick images there or on *Find bad labels*, train again without them, and compare with what was predicted.
"""


def draw() -> None:
    if started := st.session_state.pop("started", None):
        st.switch_page("pages/Live.py", query_params={"run": started})
    st.markdown(
        "**Which training images made the model say this about that image?** Replay Explorer trains an "
        "image classifier and then runs its training backwards, exactly, which gives the effect of every "
        "single training image on every target you choose."
    )
    runs = shell.all_runs()
    with st.expander("New here? Three steps", expanded=not runs):
        st.markdown(TOUR)
    draw_sample("Run the sample" if runs else "Start here")
    draw_recent(runs)


def draw_sample(heading: str) -> None:
    with st.container(border=True):
        st.subheader(heading)
        st.write(
            "6,000 images of clothes (Fashion-MNIST), a small convolutional network, and to explain: its five surest "
            "mistakes, a close call, a right answer, and all test images together."
        )
        st.fragment(draw_time, run_every=None if time_of_sample() else A_LOOK)()
        st.button(
            "Run the sample", type="primary", icon=":material/play_arrow:", on_click=start_sample, **shell.acting()
        )
        st.page_link("pages/Set_up_a_run.py", label="Or set up a run of your own", icon=":material/tune:")


def time_of_sample() -> float | None:
    """Seconds that the sample takes on this machine; None until they are measured, which is asked for here."""
    sample = config.preset("sample")
    shell.queue().calibrate(sample)
    return speed.known(shell.root(), sample)


def draw_time() -> None:
    seconds = time_of_sample()
    if seconds is None:
        st.caption("It takes 1 to 3 minutes on 2 CPU cores.")
    else:
        st.caption(
            f"It takes about {formats.duration(ROUND * math.ceil(seconds / ROUND))} on this machine, as a few of its "
            "steps, measured here, say."
        )


def start_sample() -> None:
    with shell.guarded():
        st.session_state["started"] = shell.queue().start(config.preset("sample"))


def draw_recent(runs: list[Summary]) -> None:
    st.subheader("Recent runs")
    if not runs:
        st.info("No runs yet. Run the sample, watch it, and look at its influence.", icon=":material/info:")
    for run in runs[:RECENT]:
        draw_run(run)
    if runs[RECENT:]:
        st.page_link("pages/Runs_and_storage.py", label=f"All {len(runs)} runs", icon=":material/database:")


def draw_run(run: Summary) -> None:
    with st.container(border=True):
        name, what, live, influence = st.columns([4, 5, 1, 1.3], vertical_alignment="center")
        name.markdown(f"**{plain(formats.run_label(run))}**")
        if run.remark:
            what.caption(plain(run.remark))
            return
        scored = "" if run.targets_scored is None else f"{formats.count(run.targets_scored, 'targets')} scored · "
        what.caption(
            f"{plain(run.dataset)} · {plain(run.model)} · {scored}test accuracy "
            f"{formats.percent(run.test_accuracy)} · {formats.age(run.created)}"
        )
        live.page_link("pages/Live.py", label="Live", query_params={"run": run.id})
        influence.page_link("pages/Influence.py", label="Influence", query_params={"run": run.id})


if __name__ == "__main__":
    with shell.page("Replay Explorer"):
        draw()
else:
    app = st.App(__file__, lifespan=stopping.in_order, middleware=[Middleware(hosts.OnlyOurHosts)])
