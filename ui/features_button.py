"""«Compute the features», wherever something is shown that is made of them."""

import streamlit as st

from engine import files
from engine.analysis import features
from engine.analysis.features import Features
from engine.errors import IntegrityError
from engine.jobs import features as jobs
from ui import formats, shell
from ui.run_choice import RunView
from ui.text import plain


def of(run: RunView) -> Features | None:
    """The run's features; None where they are missing, or damaged, which is said once on the page."""
    try:
        return features.read(run.manifest)
    except IntegrityError as error:
        shell.show_error_once(error.what, error.remedy)
        return None


def draw(run: RunView, what_for: str = "They say which images look alike to the trained model.") -> None:
    """The button that has them computed, with what that takes; of a run that can have none, why."""
    if why := features.why_not(run.manifest):
        st.caption(plain(why))
        return
    if files.read_only():
        st.caption("The features of this run have not been computed, and nothing is computed here.")
        return
    takes = jobs.seconds(run.manifest, run.dataset)
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button(
            "Compute the features",
            icon=":material/scatter_plot:",
            key="compute-features",
            **shell.acting(run.manifest.in_progress, formats.help_text("features"), run.manifest),
        ):
            shell.submit(run.id, jobs.Features())
        about = "" if takes is None else f" In about {formats.duration(max(1.0, takes))}."
        st.caption(f"{plain(what_for)}{about}")
