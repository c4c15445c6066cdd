"""Triage: the suspects of a run one by one, for the keyboard; and what comes of the decisions."""

import streamlit as st

from ui import corrected_result, link, run_choice, shell, triage_card, triage_out, triage_queue
from ui.run_choice import RunView
from ui.triage_queue import Queue


@st.fragment
def draw(run: RunView, queue: Queue, asked: int) -> None:
    """The image in hand and what was decided: a key draws this anew, and not the page."""
    with shell.guarded():
        triage_card.draw(run, queue, asked)
        triage_out.draw(run)


with shell.page("Triage"):
    run = run_choice.chosen("There is no run to go through yet.")
    run_choice.stop_without_images(run)
    with shell.guarded():
        corrected_result.draw_before(run)
    asked = link.whole("image", 0, len(run.dataset.train_labels) - 1, -1)
    queue = triage_queue.choose(run)
    if queue is not None:
        draw(run, queue, asked)
    with shell.guarded():
        corrected_result.draw_all(run)
    link.copy()
