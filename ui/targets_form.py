"""Widgets for what is asked: the target function, and help with the texts of targets."""

from collections.abc import Sequence

import streamlit as st

from engine.targets import FAMILIES, FUNCTIONS
from ui.text import line

HELP = (
    "Separated by commas: `test:17` or `test:0-9`, test images; `class:coat`, all test images of a class; "
    "`confusion:coat>shirt`, the coats that the model takes for shirts; `train:17`, a training image's own loss; "
    "`test:all`. Classes by number or name, in double quotes where the name holds a comma."
)


def choose_function(classes: Sequence[str], key: str, captions: bool = False) -> str:
    """The text of a target function; `captions` says what each is. A function of classes asks for them below."""
    rows = {**{name: row.sentence for name, row in FUNCTIONS.items()}}
    rows |= {family.example: family.sentence for family in FAMILIES.values()}
    chosen = st.radio(
        "Target function",
        list(rows),
        captions=list(rows.values()) if captions else None,
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
