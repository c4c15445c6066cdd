"""Which training images *Find bad labels* shows: their order, its filters and its page, all of them in the link."""

from dataclasses import dataclass

import pandas as pd
import streamlit as st

from engine.analysis import self_influence as self_influences
from engine.analysis import suspects
from engine.runs.notes import LABELS
from engine.runs.scores import TargetRef
from ui import folding, formats, link, paging, ticks
from ui.paging import EVERY, class_name, turn_to_the_first
from ui.run_choice import RunView

ORDERS = {
    "loss": "Loss on the label given",
    "harm": "Harm to the target",
    suspects.SELF: "Self-influence",  # where it was computed
}
WHY = {
    "loss": "The trained model gives the first images' labels the lowest probability. This finds wrong labels well, "
    "and does not say whether they matter to the target. Losses are in nats.",
    "harm": "Training on the first images harmed the target most. A wrong label is a usual reason; a hard or unusual "
    "image is another, so look before you decide.",
    suspects.SELF: "The model knows the first images most by heart: their own loss would rise most without them. A "
    "wrong label is one reason, a rare image another; where both were measured, loss found more wrong labels. Only "
    "images that it was computed for are here.",
}
BOXES = {"disagree": "disagree", "ticked": "ticked-only"}  # filters that the link names, and their widgets' keys
BOXES_IN_WORDS = {"the model disagrees": "disagree", "ticked only": "ticked-only"}


@dataclass(frozen=True)
class Suspects:
    """`images`: all training images in the order chosen (`suspects.ranked`); `left`: those that the filters leave;
    `key` tells these choices from others."""

    by: str
    ref: TargetRef
    images: pd.DataFrame
    left: pd.DataFrame
    key: str


# By content: a score set's name says too little, for it is used again after a deletion; so does a data set's, whose
# classes may be named anew.


@st.cache_data(max_entries=8, show_spinner=False)
def ranked(sha256: str, classes: tuple[str, ...], key: str, by: str, _manifest):
    return suspects.ranked(_manifest, key, by)


@st.cache_data(max_entries=8, show_spinner=False)
def better_order(sha256: str, classes: tuple[str, ...], key: str, _manifest):
    return suspects.better_order(ranked(sha256, classes, key, "harm", _manifest))


def _content(run: RunView, ref: TargetRef) -> tuple[str, tuple[str, ...]]:
    own = self_influences.recorded_name(run.manifest) or ""
    sha256 = run.manifest.score_sets.sha256(ref.score_set) + run.manifest.files.get(own, "")
    return sha256, tuple(run.dataset.classes)


def choose(run: RunView) -> Suspects:
    best = suspects.target_key(run.manifest)
    _read_link(run, best)
    state, place = st.session_state, st.container()
    with folding.row("Filters", _in_words(run, best)):
        st.selectbox(
            "Harm to the target",
            list(run.targets),
            key=f"by-{run.id}",
            width=300,
            on_change=turn_to_the_first,
            format_func=run.titles.__getitem__,
        )
        st.selectbox(
            "Given label",
            [EVERY, *run.dataset.classes],
            key=f"given-label-{run.id}",
            width=200,
            on_change=turn_to_the_first,
            format_func=class_name,
        )
        st.checkbox("The model disagrees", key=f"disagree-{run.id}", on_change=turn_to_the_first)
        st.checkbox("Ticked only", key=f"ticked-only-{run.id}", on_change=_forget_seen, args=(run,))
    ref = run.targets[state[f"by-{run.id}"]]
    with place:
        by = _choose_order(run, ref)
    images = ranked(*_content(run, ref), ref.key, by, run.manifest)
    label, disagree = state[f"given-label-{run.id}"], state[f"disagree-{run.id}"]
    left = images[(images["given_label"] == label) | (label == EVERY)]
    left = left[(left["given_label"] != left["model_label"]) | (not disagree)]
    if state[f"ticked-only-{run.id}"]:
        left = left[left["index"].isin(_seen(run))]
    return Suspects(by, ref, images, left, f"{run.id}-{by}-{ref.key}-{label}-{disagree}-{len(left)}")


def _read_link(run: RunView, best: str) -> None:
    """Takes what the link says of the filters into their widgets, before anything is drawn."""
    link.follow(f"by-{run.id}", link.one_of("target", run.targets, best))
    link.follow(f"given-label-{run.id}", link.one_of("label", [EVERY, *run.dataset.classes], EVERY))
    for name, key in BOXES.items():
        link.follow(f"{key}-{run.id}", link.one_of(name, ("yes",), None) is not None)


def _in_words(run: RunView, best: str) -> list[str]:
    """What is set otherwise than at first."""
    said: list[str] = []
    state = st.session_state
    if (target := state[f"by-{run.id}"]) != best:
        said.append(f"harm to {run.titles[target]}")
    if (label := state[f"given-label-{run.id}"]) != EVERY:
        said.append(f"label {label}")
    return said + [name for name, key in BOXES_IN_WORDS.items() if state[f"{key}-{run.id}"]]


def _choose_order(run: RunView, ref: TargetRef) -> str:
    """By loss, unless harm is known to find more of this run's wrong labels."""
    content, key = _content(run, ref), f"order-{run.id}"
    better, precision = better_order(*content, ref.key, run.manifest)
    orders = [order for order in ORDERS if order in suspects.orders(run.manifest)]
    link.follow(key, link.one_of("order", orders, better))
    by = st.segmented_control(
        "Order", orders, key=key, required=True, format_func=ORDERS.__getitem__, on_change=turn_to_the_first
    )
    st.caption(WHY[by])
    images = ranked(*content, ref.key, by, run.manifest)
    precision = suspects.known_orders(images) if by == suspects.SELF else precision
    if precision:
        known = suspects.known_precision(images)
        figures = ", ".join(f"{formats.figure(value)} by {name}" for name, value in precision.items())
        st.caption(f"{formats.known_errors(*known)} Average precision (1: they come first of all): {figures}.")
    return by


def see(run: RunView) -> None:
    """Shows the ticked images alone."""
    st.session_state[f"ticked-only-{run.id}"] = True
    _forget_seen(run)


def _forget_seen(run: RunView) -> None:
    st.session_state.pop(f"seen-{run.id}", None)
    turn_to_the_first()


def _seen(run: RunView) -> list[int]:
    """The images that were ticked when they alone were asked for: one that is unticked then stays where it is."""
    key = f"seen-{run.id}"
    if key not in st.session_state:
        st.session_state[key] = ticks.of(run, LABELS)
    return st.session_state[key]


def page_of_old_link(images: int) -> int:
    """Links from before the pages had numbers say the position of the first of the `images`, from 0."""
    return 1 + link.whole("from", 0, max(0, images - 1), 0) // paging.A_PAGE


def keep_link(run: RunView, found: Suspects, page: int) -> None:
    state = st.session_state
    label = formats.unless(state[f"given-label-{run.id}"], EVERY)
    boxes = {name: "yes" if state[f"{key}-{run.id}"] else None for name, key in BOXES.items()}
    link.keep(run=run.id, order=found.by, target=found.ref.key, label=label, **boxes, page=page)
