"""Runs of imported scores: what a page says that needs what such a run has not, and which pages work with it.

Neither a training nor a model is behind scores that another program made; the model's logits may have come with them.
What each page needs stands in `ui.navigation`; every sentence about it is made here.
"""

import streamlit as st

from engine.datasets.base import SPLITS
from engine.runs.manifest import Manifest
from ui import navigation
from ui.navigation import LOGITS, PageLink
from ui.text import plain

DOCS = "docs/viewer.md"
REMEDY = "A run that is trained here on the same data has both; *Compare runs* holds its scores against these."


def phrase(record: Manifest, what: str) -> str:
    """Why something cannot be done with such a run, as text: `what` needs what is not here."""
    return (
        f"These scores of {record.method} were made elsewhere. {what[:1].upper()}{what[1:]} needs the training and the "
        "model that they are of, and neither is here."
    )


def works(record: Manifest) -> list[PageLink]:
    """The pages that show something of it."""
    return [link for link in navigation.LINKS if link.shows and not lacks(record, link)]


def lacks(record: Manifest, link: PageLink) -> str:
    """What a page needs and this run has not, in words; "" where it works."""
    if not record.method or not link.needs:
        return ""
    for split in SPLITS:
        if link.needs == LOGITS[split]:
            images = {"train": "training", "test": "test"}[split]
            return "" if record.has_logits(split) else f"the model's logits of the {images} images"
    return "a training"


def stop_without(record: Manifest) -> None:
    """Stops a page that shows nothing of such a run: says what it needs, and leads to those that do."""
    page = next(link for link in navigation.LINKS if link.label == st.session_state["page"])
    lacking = lacks(record, page)
    if not lacking:
        return
    if page.needs in LOGITS.values():
        split = next(split for split in SPLITS if LOGITS[split] == page.needs)
        st.info(
            f"This page needs {lacking}, and the scores of {plain(record.method)} came without. Show them once more "
            f"with `--{split}-logits FILE` ({DOCS}).",
            icon=":material/info:",
        )
    else:
        st.info(f"{plain(phrase(record, f'the page {page.label}'))} {REMEDY}", icon=":material/info:")
    lead(record)
    st.stop()


def say(record: Manifest, what: str) -> None:
    """In place of a part of a page."""
    st.caption(plain(phrase(record, what)))


def lead(record: Manifest) -> None:
    """Links to the pages that work."""
    st.markdown("**What works with imported scores:**")
    with st.container(horizontal=True):
        for link in works(record):
            st.page_link(link.path, label=link.label, icon=link.icon, query_params={"run": record.folder.name})


def describe(record: Manifest) -> None:
    """Below the choice of such a run: whose scores these are, and what was noticed of them."""
    sidecar = next(iter(record.score_sets.sidecars()), {})
    st.caption(
        f":material/input: Scores of **{plain(record.method)}**, made elsewhere and shown here: no training is "
        f"behind them that could be replayed, and what leaving an image out would do is not foretold ({DOCS})."
    )
    for text in sidecar.get("noticed", ()):
        st.warning(plain(text), icon=":material/warning:")
