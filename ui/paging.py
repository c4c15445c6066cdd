"""Lists of images: which of them a page of a list shows, and what all such lists have in common."""

import numpy as np
import streamlit as st

from ui import link
from ui.text import JOINER, line

A_PAGE = 24  # images
TURNED = "first page"  # in the session, where the next list to be drawn begins with its first page
EVERY = "\0"  # the choice of all classes; no class has this name, for data sets write controls as escapes


def class_name(name: str) -> str:
    """A choice of `EVERY` and the classes, as a selectbox shows it. The joiner, which nobody sees, keeps all classes
    apart from a class that is called so: Streamlit tells choices by what they show, and `line` lets none through."""
    return f"All classes{JOINER}" if name == EVERY else line(name)


def turn_to_the_first() -> None:
    """A list that is filtered anew is another list: it begins with its first page, which `choose` then shows."""
    st.session_state[TURNED] = True


def last(n: int) -> int:
    """The index of the last of n images."""
    return n - 1


def of_class(labels_N: np.ndarray, label: int | None) -> np.ndarray:
    """int64 [M], of the images with this label, or of all."""
    return np.arange(len(labels_N)) if label is None else np.flatnonzero(labels_N == label)


def label_number(name: str, classes: tuple[str, ...]) -> int | None:
    """The label of a class chosen from `EVERY` and `classes`; None for all."""
    return None if name == EVERY else classes.index(name)


def pages(count: int, a_page: int = A_PAGE) -> int:
    """How many pages a list of `count` has: one at least."""
    return max(1, -(-count // a_page))


def of_page(items, page: int, a_page: int = A_PAGE):
    """What stands on a page, counted from 1: nothing beyond the last, and before the first."""
    return items[(page - 1) * a_page : page * a_page] if page >= 1 else items[:0]


def choose(count: int, key: str, a_page: int = A_PAGE, name: str | None = "page", default: int = 1) -> int:
    """The page, from 1, of a list of `count`: that of the link's `name` where it has one, or one that is chosen here.
    `key` must tell lists apart that have not the same number of pages."""
    last = pages(count, a_page)
    if name is not None:
        asked = link.whole(name, 1, last, default if default <= last else 1)
        if st.session_state.pop(TURNED, False):
            st.session_state[key] = 1
        link.follow(key, asked)
    if last == 1:
        return 1
    return st.pagination(last, key=key)
