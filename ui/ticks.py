"""Training images that a person has ticked: one set a run, the same on every page of a browser tab."""

import streamlit as st


def of(run_id: str) -> list[int]:
    return sorted(_set(run_id))


def box(run_id: str, index: int, where: str) -> None:
    """The tick of one image; `where` tells apart the places of a page that show it."""
    key = f"tick-{run_id}-{where}-{index}"
    st.session_state[key] = index in _set(run_id)       # the set decides, not the widget's memory
    st.checkbox(f"train:{index}", key=key, on_change=_toggle, args=(run_id, index))


def add(run_id: str, indices) -> None:
    _set(run_id).update(int(i) for i in indices)


def clear(run_id: str) -> None:
    _set(run_id).clear()


def _toggle(run_id: str, index: int) -> None:
    _set(run_id).symmetric_difference_update({index})


def _set(run_id: str) -> set[int]:
    return st.session_state.setdefault(f"ticked-{run_id}", set())
