"""Widgets for augmentation: kinds are picked from their table, each with its amount."""

from collections.abc import Callable

import streamlit as st

from engine import augmentation
from engine.augmentation import KINDS
from ui.text import plain

ACROSS = 3  # amounts side by side


def choose(
    text: str, shape: tuple[int, int, int] | None, key: str, on_change: Callable[[str], None], disabled: bool = False
) -> None:
    """What is done to each training image, in the order in which it was picked. `shape` is [H, W, C] of the images:
    kinds that cannot be done to them are not offered. `on_change` hears the new text before the page is drawn."""
    chosen = () if augmentation.problem_of(text) else augmentation.parse(text)
    names = [each.name for each in chosen]
    _show(key, names)
    st.multiselect(
        "Augmentation",
        [name for name in KINDS if name in names or _fits(name, shape)],
        key=key,
        format_func=lambda name: name.capitalize(),
        placeholder="none: each epoch shows the images as they are",
        help="Each epoch shows each training image a little changed, decided by the seed: the same in training, replay "
        "and retraining. They are done in the order in which they are picked.",
        on_change=lambda: on_change(_written(key)),
        disabled=disabled,
    )
    for first in range(0, len(chosen), ACROSS):
        for column, each in zip(st.columns(ACROSS), chosen[first : first + ACROSS], strict=False):
            with column:
                _amount(each, key, on_change, disabled)


def _amount(each: augmentation.Augmentation, key: str, on_change: Callable[[str], None], disabled: bool) -> None:
    """How strong one of them is, and what it does."""
    name, sentence, amount = each.name.capitalize(), plain(KINDS[each.name].sentence), KINDS[each.name].amount
    if amount is None:
        st.markdown(f"{name}  \n:small[:gray[{sentence}]]")
        return
    _show(f"{key}-{each.name}", int(each.amount) if amount.whole else float(each.amount))
    st.number_input(
        f"{name} ({amount.unit})" if amount.unit.isalpha() else name,
        value=None,
        step=1 if amount.whole else None,
        format=None if amount.whole else "%g",
        key=f"{key}-{each.name}",
        on_change=lambda: on_change(_written(key)),
        disabled=disabled,
    )
    st.caption(f"{sentence} From {amount.low:g} to {amount.high:g}.")


def _show(key: str, value: object) -> None:
    if key not in st.session_state or st.session_state[key] != value:
        st.session_state[key] = value


def _fits(name: str, shape: tuple[int, int, int] | None) -> bool:
    if shape is None:
        return True
    height, width, channels = shape
    amount = KINDS[name].amount
    return KINDS[name].unfit(0 if amount is None else amount.low, (channels, height, width)) is None


def _written(key: str) -> str:
    """The text that the widgets say; a kind that was just picked has its usual amount."""
    parts = []
    for name in st.session_state[key]:
        amount = st.session_state.get(f"{key}-{name}")
        parts.append(KINDS[name].form if amount is None or KINDS[name].amount is None else f"{name}:{amount:g}")
    return ",".join(parts)
