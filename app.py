"""Overview: what this is, one button that runs the sample, and the recent runs. And the server of all pages.

`streamlit run app.py` finds `app` below and serves it; for each look at the Overview, Streamlit runs the file itself.
"""

import math
import os
from pathlib import Path

# Threads of a pass that wait for each other should sleep rather than spin: beside a browser on the same two cores,
# spinning made training four times slower. OpenMP reads this when torch is loaded, which is later.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import streamlit as st
from starlette.middleware import Middleware

from engine import config, files
from engine.jobs import speed
from engine.runs.run import Summary
from ui import addresses, delivery, formats, hosts, navigation, run_choice, run_names, run_watch, shell, stopping
from ui.text import plain

RECENT = 8  # runs
A_LOOK = 2.0  # seconds between looks at whether the machine's speed is known
ROUND = 5  # seconds to which a time is said
FIRST = "Run the sample, watch it, and look at its influence."
GUESTS = (
    ("pages/Influence.py", ":material/image_search:", "Look at the influence"),
    ("pages/Test_images.py", ":material/grid_view:", "Browse the test images"),
    ("pages/Trust.py", ":material/verified:", "How far to rely on it"),
)
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
    if files.read_only():
        draw_newest(runs)
    else:
        with st.expander("New here? Three steps", expanded=not runs):
            st.markdown(TOUR)
        draw_sample("Run the sample" if runs else "Start here")
    draw_recent()


def draw_newest(runs: list[Summary]) -> None:
    """For guests: the run to look at."""
    sound = [run for run in runs if run.scored]
    if not sound:
        return
    run = next(run for run in sound if run.id == run_choice.default(sound))
    with st.container(border=True):
        st.subheader(plain(run_names.of(run)))
        st.caption(plain(in_words(run)))
        with st.container(horizontal=True):
            for page, icon, label in GUESTS:
                st.page_link(page, label=label, icon=icon, query_params={"run": run.id})


def draw_sample(heading: str) -> None:
    with st.container(border=True):
        st.subheader(heading)
        st.write(
            "6,000 images of clothes (Fashion-MNIST), a small convolutional network, and to explain: its five surest "
            "mistakes, a close call, a right answer, and all test images together."
        )
        st.fragment(draw_time, run_every=None if time_of_sample() else A_LOOK)()
        st.button("Run the sample", type="primary", icon=":material/play_arrow:", on_click=start_sample)
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
            f"It takes about {formats.duration(ROUND * math.ceil(seconds / ROUND))} on this machine, judging by a few "
            "of its steps that were timed here."
        )


def start_sample() -> None:
    with shell.guarded():
        st.session_state["started"] = shell.queue().start(config.preset("sample"))


@st.fragment(run_every=shell.A_LOOK)
def draw_recent() -> None:
    """Each with its status as it is: the list is drawn again and again."""
    with shell.guarded():
        runs = shell.all_runs()
        st.subheader("Recent runs")
        if not runs:
            words = "There is no run to look at yet." if files.read_only() else "No runs yet. " + FIRST
            st.info(words, icon=":material/info:")
        for run in runs[:RECENT]:
            draw_run(run)
        if runs[RECENT:]:
            st.page_link("pages/Runs_and_storage.py", label=f"All {len(runs)} runs", icon=":material/database:")


def draw_run(run: Summary) -> None:
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        with st.container(gap=None, width="stretch"):
            st.markdown(f"**{plain(run_names.of(run))}**")
            st.caption(plain(run.remark or in_words(run)))
        run_watch.badge(run_watch.status(run))
        if run.remark:
            return
        st.page_link("pages/Live.py", label="Live", query_params={"run": run.id})
        if run.scored:
            st.page_link("pages/Influence.py", label="Influence", query_params={"run": run.id})


def in_words(run: Summary) -> str:
    scored = "" if run.targets_scored is None else f"{formats.count(run.targets_scored, 'targets')} scored · "
    accuracy = "" if run.test_accuracy is None else f"test accuracy {formats.percent(run.test_accuracy)} · "
    return f"{run.dataset} · {run_names.model(run.model)} · {scored}{accuracy}{formats.age(run.created)}"


if __name__ == "__main__":
    with shell.page("Replay Explorer"):
        draw()
else:
    delivery.in_order()
    served = Middleware(addresses.Addresses, pages=tuple(Path(path).stem for path, _, _ in navigation.PAGES[1:]))
    app = st.App(__file__, lifespan=stopping.in_order, middleware=[Middleware(hosts.OnlyOurHosts), served])
