"""Duplicates: images that are the same, or nearly, within and between training and test; to look at and leave out."""

import streamlit as st

from engine.analysis import duplicates
from ui import download, duplicates_form, duplicates_list, formats, link, run_choice, shell, ticks
from ui.duplicates_list import Shown
from ui.run_choice import RunView
from ui.text import plain

WHAT = (
    "Images that are there more than once count more than others, and a test image whose twin was trained on says "
    "nothing of what the model has learned."
)


def stop_untrained(run: RunView) -> None:
    if not run.manifest.trained and not run.manifest.method:  # the pictures of imported scores are whole
        st.info(
            f"This run has not been trained to its end; it is {plain(run.manifest.status)}.", icon=":material/info:"
        )
        run_choice.link_to_live(run)
        st.stop()


def draw_exports(run: RunView, shown: Shown) -> None:
    def table() -> str:  # written when it is asked for
        scores_N = None if shown.ref is None else run.manifest.score_sets.row(shown.ref)
        groups = shown.rows["group"].tolist()
        return formats.csv(duplicates.listed(shown.found, run.dataset, scores_N, groups))

    with st.container(horizontal=True):
        download.button("Groups as CSV", table, f"{run.id}-duplicates-{shown.found.by}.csv")
        link.copy()


with shell.page("Duplicates"):
    run = run_choice.chosen("There is no run to look at yet.")
    stop_untrained(run)
    run_choice.stop_without_images(run)
    st.caption(WHAT, help=formats.help_text("duplicates"))
    ways = duplicates_list.known(run)
    if not ways:
        link.keep(run=run.id)
        st.header("Look for duplicates")
        duplicates_form.draw(run)
    else:
        shown = duplicates_list.choose(run, ways)
        run_choice.hold(run=run.id, target=shown.ref.key if shown.ref else None)
        duplicates_list.say(run, shown.found)
        page = duplicates_list.draw(run, shown)
        duplicates_list.keep_link(run, shown, page)
        with shell.guarded():
            draw_exports(run, shown)
        with st.expander("Look for duplicates in another way", key="duplicates-again"):
            duplicates_form.draw(run)
    ticks.bar(run)
