"""Overview: what this is, one button that runs the sample, and the recent runs."""

import os

# Threads of a pass that wait for each other should sleep rather than spin: beside a browser on the same two cores,
# spinning made training four times slower. OpenMP reads this when torch is loaded, which is later.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import streamlit as st
from starlette.middleware import Middleware

from engine import config
from engine.errors import ReplayError
from ui import formats, hosts, shell
from ui.text import plain

RECENT = 8
TOUR = """
1. **Run** the sample, or set up a run of your own: a classifier is trained, and its training replayed backwards.
2. **Look** on *Influence* at the training images that helped and harmed a target most, and on *Trust* at how far to
   rely on that.
3. **Act**: tick images there or on *Find bad labels*, train again without them, and compare with what was predicted.
"""


def start_sample() -> None:
    with shell.guarded():
        st.session_state["started"] = shell.manager().start(config.preset("sample"))


def draw() -> None:
    with shell.page("Replay Explorer"):
        if started := st.session_state.pop("started", None):
            st.switch_page("pages/Live.py", query_params={"run": started})

        st.markdown(
            "**Which training images made the model say this about that image?** Replay Explorer trains an "
            "image classifier and then runs its training backwards, exactly, which gives the effect of every "
            "single training image on every target you choose."
        )
        runs = shell.runs()
        with st.expander("New here? Three steps", expanded=not runs):
            st.markdown(TOUR)
        with st.container(border=True):
            st.subheader("Run the sample" if runs else "Start here")
            st.write(
                f"6,000 images of clothes (Fashion-MNIST), a small convolutional network and eight test "
                f"images to explain: {config.PRESET_TEXT['sample'].split('; ')[1]}."
            )
            st.button(
                "Run the sample", type="primary", icon=":material/play_arrow:", on_click=start_sample, **shell.acting()
            )
            st.page_link("pages/Set_up_a_run.py", label="Or set up a run of your own", icon=":material/tune:")

        st.subheader("Recent runs")
        if not runs:
            st.info("No runs yet. Run the sample, watch it, and look at its influence.", icon=":material/info:")
        for run in runs[:RECENT]:
            with st.container(border=True):
                name, what, live, influence = st.columns([4, 5, 1, 1.3], vertical_alignment="center")
                name.markdown(f"**{plain(formats.run_label(run))}**")
                try:
                    record = run.manifest()
                    what.caption(
                        f"{plain(record.config.dataset)} · {plain(record.config.model)} · "
                        f"{formats.count(len(record.score_sets.targets()), 'targets')} scored · test accuracy "
                        f"{formats.percent(record.test_accuracy)} · {formats.age(record.created)}"
                    )
                except ReplayError as error:
                    what.caption(plain(error.what))
                    continue
                live.page_link("pages/Live.py", label="Live", query_params={"run": run.id})
                influence.page_link("pages/Influence.py", label="Influence", query_params={"run": run.id})
        if runs[RECENT:]:
            st.page_link("pages/Runs_and_storage.py", label=f"All {len(runs)} runs", icon=":material/database:")


if __name__ == "__main__":  # Streamlit runs the file so, for each look at the page
    draw()
else:  # `streamlit run` imports it once, for the server
    app = st.App(__file__, middleware=[Middleware(hosts.OnlyOurHosts)])
