"""Widgets for what is asked: the target function, and help with the texts of targets."""

import re
from collections.abc import Callable, Sequence

import streamlit as st

from engine.targets import FAMILIES, FUNCTIONS
from ui.text import line

HELP = (
    "Separated by commas: `test:17` or `test:0-9`, test images; `class:coat`, all test images of a class; "
    "`confusion:coat>shirt`, the coats that the model takes for shirts; `train:17`, a training image's own loss; "
    "`test:all`. Classes by number or name, in double quotes where the name holds a comma."
)


def ask_function(
    classes: Sequence[str], key: str, value: str, on_change: Callable[[str], None], disabled: bool
) -> None:
    """Widgets that show the target function `value`, each function with what it says of a target; `on_change` hears
    another one before the page is drawn."""
    rows = _rows()
    name, numbers = _parts(value)
    place = f"function-{key}"
    family = next((family for family in FAMILIES.values() if family.example == name), None)

    def written() -> None:
        chosen = st.session_state[place]
        family = next((family for family in FAMILIES.values() if family.example == chosen), None)
        if family is None:
            on_change(chosen)
            return
        picked: list[int] = []
        for at in range(family.takes):
            number = st.session_state.get(f"{place}-{family.name}-{at}")
            first = next(n for n in range(len(classes)) if n not in picked)
            picked.append(first if number is None or number in picked else number)
        on_change(family.of(*picked).name)

    if st.session_state.get(place) != name:
        st.session_state[place] = name
    st.radio(
        "What is asked of each target",
        list(rows),
        captions=list(rows.values()),
        horizontal=True,
        format_func=_label,
        key=place,
        on_change=written,
        disabled=disabled,
    )
    if family is None:
        return
    for at, column in enumerate(st.columns(family.takes)):
        box = f"{place}-{family.name}-{at}"
        if st.session_state.get(box) != numbers[at]:
            st.session_state[box] = numbers[at]
        column.selectbox(
            "Class" if family.takes == 1 else ("Why this class", "and not this")[at],
            [n for n in range(len(classes)) if n not in numbers[:at]],
            format_func=lambda c: line(classes[c]),
            key=box,
            on_change=written,
            disabled=disabled,
        )


def _rows() -> dict[str, str]:
    """Sentences of all functions; those of classes by their example."""
    rows = {name: row.sentence for name, row in FUNCTIONS.items()}
    return rows | {family.example: family.sentence for family in FAMILIES.values()}


def _parts(text: str) -> tuple[str, list[int]]:
    """A function's row and its classes."""
    family, _, of = text.partition(":")
    name = next((f.example for f in FAMILIES.values() if of and f.name == family), text)
    return name, [int(number) for number in re.findall("[0-9]+", of)]


def choose_function(classes: Sequence[str], key: str) -> str:
    """The text of a target function. A function of classes asks for them below."""
    chosen = st.radio(
        "Target function",
        list(_rows()),
        horizontal=True,
        format_func=_label,
        key=f"function-{key}",
    )
    family = next((family for family in FAMILIES.values() if family.example == chosen), None)
    if family is None:
        return chosen
    numbers = []
    for place, column in enumerate(st.columns(family.takes)):
        others = [number for number in range(len(classes)) if number not in numbers]
        number = column.selectbox(
            "Class" if family.takes == 1 else ("Why this class", "and not this")[place],
            others,
            format_func=lambda c: line(classes[c]),
            key=f"function-{key}-{family.name}-{place}",
        )
        numbers.append(number)
    return family.of(*numbers).name


def _label(name: str) -> str:
    """Of a row: what it takes stands below it, in words."""
    family = next((family for family in FAMILIES.values() if family.example == name), None)
    if family is None:
        return name.capitalize()
    of = " of a class" if family.takes == 1 else f" of {family.takes} classes"
    return f"{family.name.capitalize()}{of}"
