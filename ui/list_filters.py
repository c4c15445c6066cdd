"""What a list of ranked training images shows: label, sign, length, size of tiles, pinned targets; in one folding row.

Each choice is the link's, unless a person has just changed it (`link.follow`). All of the link is read before the row
is drawn, so that what is wrong with it is said above.
"""

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from engine.analysis import lists
from ui import folding, formats, gallery, link, paging
from ui.paging import EVERY, class_name
from ui.run_choice import RunView

A_SIDE = (6, 12, 24, 48)  # images
RELATIONS = {"any": "Any", "same": "Same as the target's", "other": "Different"}
SIDES = {"both": "Both", "helpful": "Helpful", "harmful": "Harmful"}
PINS = 8
UNSAID = {"relation": "any", "side": "both", "k": 12, "size": "M"}
"""What a link means that does not say it."""


@dataclass(frozen=True)
class Choices:
    """What the row says."""

    among: lists.Filter
    side: str  # of `SIDES`
    k: int  # images a side
    size: str  # of `gallery.sizes`
    pins: tuple[str, ...]  # keys of targets


def read(run: RunView) -> None:
    """Takes what the link says into the row's widgets, before anything is drawn."""
    link.follow(f"label-{run.id}", link.one_of("label", [EVERY, *run.dataset.classes], EVERY))
    link.follow(f"relation-{run.id}", link.one_of("relation", RELATIONS, UNSAID["relation"]))
    link.follow(f"side-{run.id}", link.one_of("side", SIDES, UNSAID["side"]))
    link.follow("k", link.one_of("k", A_SIDE, UNSAID["k"]))
    link.follow("size", link.one_of("size", gallery.WANTED, UNSAID["size"]))
    link.follow(f"pins-{run.id}", link.several("pin", run.targets)[:PINS])
    link.follow(f"range-{run.id}", (link.real("low"), link.real("high")))


def keep_range(run: RunView, low: float | None, high: float | None) -> None:
    """Only images of these scores, in the function's own unit; None for no limit."""
    st.session_state[f"range-{run.id}"] = (low, high)


def choose(run: RunView, true_label: int | None, on_change: Callable[[], None]) -> Choices:
    """The row, after `read`; below it stands what is set. `true_label` of the target, None where it has several.
    `on_change` is called before the page is drawn anew with another list."""
    state = st.session_state
    with folding.row("Filters and view", _in_words(run, true_label)):
        label = st.selectbox(
            "Label",
            [EVERY, *run.dataset.classes],
            key=f"label-{run.id}",
            width=150,
            on_change=on_change,
            format_func=class_name,
        )
        if true_label is not None:
            _segments("Label beside the target's", RELATIONS, f"relation-{run.id}", on_change)
        _segments("Effect", SIDES, f"side-{run.id}", on_change)
        st.selectbox("Images a side", A_SIDE, key="k", width=120, on_change=on_change)
        st.segmented_control("Tiles", list(gallery.WANTED), key="size", required=True)
        st.multiselect(
            "Pin targets to compare",
            list(run.targets),
            key=f"pins-{run.id}",
            format_func=lambda key: run.titles[key],
            max_selections=PINS,
            placeholder="None pinned",
            width=320,
            help="The same training images' scores on several targets, in a table below the lists.",
        )
    number = paging.label_number(label, run.dataset.classes)
    relation = "any" if true_label is None else state[f"relation-{run.id}"]
    return Choices(
        lists.Filter(number, relation, *state[f"range-{run.id}"]),
        state[f"side-{run.id}"],
        state["k"],
        state["size"],
        tuple(state[f"pins-{run.id}"]),
    )


def _segments(label: str, options: dict[str, str], key: str, on_change: Callable[[], None]) -> None:
    st.segmented_control(
        label, list(options), format_func=lambda option: options[option], required=True, key=key, on_change=on_change
    )


def _in_words(run: RunView, true_label: int | None) -> list[str]:
    """What is set otherwise than at first."""
    said: list[str] = []
    state = st.session_state
    if (label := state[f"label-{run.id}"]) != EVERY:
        said.append(f"label {label}")
    if true_label is not None and (relation := state[f"relation-{run.id}"]) != UNSAID["relation"]:
        said.append({"same": "label as the target's", "other": "another label than the target's"}[relation])
    if (side := state[f"side-{run.id}"]) != UNSAID["side"]:
        said.append(f"{side} only")
    if any(limit is not None for limit in state[f"range-{run.id}"]):
        said.append("a range of scores")
    if (k := state["k"]) != UNSAID["k"]:
        said.append(f"{k} images a side")
    if (size := state["size"]) != UNSAID["size"]:
        said.append(f"tiles {size}")
    if pins := state[f"pins-{run.id}"]:
        said.append(f"{formats.count(len(pins), 'targets')} pinned")
    return said
