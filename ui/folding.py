"""The row of filters that folds away, of every list that has many."""

import contextlib
from collections.abc import Iterator

import streamlit as st

from ui.text import plain


@contextlib.contextmanager
def row(label: str, said: list[str]) -> Iterator[None]:
    """What is drawn inside stands behind a row that is closed at first; below it stands what is set otherwise than at
    first, `said`, where anything is. The label stays what it is: of an expander with another one Streamlit makes
    another one, which is closed, and in which every choice is drawn anew."""
    with st.container(key="filters-row", gap="xxsmall"):
        with st.expander(label, key="filters"), st.container(horizontal=True, vertical_alignment="bottom"):
            yield
        if said:
            st.caption(f"Set: {plain(' · '.join(said))}")
