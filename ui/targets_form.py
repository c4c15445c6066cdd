"""Widgets for what is asked: the target function, and help with the texts of targets."""

import re
from collections.abc import Sequence

import streamlit as st

from engine.targets import FAMILIES, FUNCTIONS
from ui.text import line

HELP = (
    "Separated by commas: `test:17` or `test:0-9`, test images; `class:coat`, all test images of a class; "
    "`confusion:coat>shirt`, the coats that the model takes for shirts; `train:17`, a training image's own loss; "
    "`test:all`. Classes by number or name, in double quotes where the name holds a comma."
)


def choose_function(classes: Sequence[str], key: str, captions: bool = False, start: str = "loss") -> str:
    """The text of a target function; `captions` says what each is. A function of classes asks for them below. `start`
    is the one that is chosen first, classes by number."""
    rows = {**{name: row.sentence for name, row in FUNCTIONS.items()}}
    rows |= {family.example: family.sentence for family in FAMILIES.values()}
    first_family, _, of = start.partition(":")
    first = next((f.example for f in FAMILIES.values() if of and f.name == first_family), start)
    first_classes = [int(number) for number in re.findall("[0-9]+", of)]
    chosen = st.radio(
        "Target function",
        list(rows),
        index=list(rows).index(first),
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
            index=next(
                (i for i, c in enumerate(others) if [c] == first_classes[place : place + 1] and first == chosen), 0
            ),
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
