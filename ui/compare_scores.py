"""How far the scores of two runs agree, kept for as long as their content stays what it is."""

import streamlit as st

from engine.analysis import compare
from ui.run_choice import RunView


@st.cache_data(max_entries=1024, show_spinner="Comparing the scores …")
def agreement(source: tuple, _both: compare.Common) -> compare.Agreement:
    """By the content of both score files."""
    return compare.agreement(_both.a_N, _both.b_N)


@st.cache_resource(max_entries=64, show_spinner="Comparing the images …")
def _shared_images(fingerprints: tuple, _a: RunView, _b: RunView) -> compare.SharedImages:
    """By the content of both data sets. Nobody changes what it returns."""
    return compare.shared_images(_a.dataset, _b.dataset)


def shared_of(a: RunView, b: RunView) -> compare.SharedImages:
    return _shared_images((a.dataset.fingerprint, b.dataset.fingerprint), a, b)
