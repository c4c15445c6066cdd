"""A page's state in its URL: read with a check, and written back, so that a copied link restores what is seen."""

import math
from urllib.parse import urlencode

import streamlit as st


def one_of(name: str, options, default):
    """The option whose text the URL gives."""
    asked = st.query_params.get(name)
    found = {str(option): option for option in options}
    if asked is None or asked in found:
        return found.get(asked, default)
    _refused(name, asked)
    return default


def several(name: str, options) -> list:
    """The options that the URL lists, separated by commas."""
    asked = [part for part in st.query_params.get(name, "").split(",") if part]
    found = {str(option): option for option in options}
    if wrong := [part for part in asked if part not in found]:
        _refused(name, ", ".join(wrong))
    return [found[part] for part in asked if part in found]


def follow(key: str, asked) -> None:
    """Before a widget of this key: what the URL asks for is its value, unless a person, or a click elsewhere on the
    page, has just changed it. So the browser's «back» works, and the widget stays the same while its value changes."""
    last = st.session_state.get(f"{key}-last")
    if key not in st.session_state or (st.session_state[key] == last and asked != last):
        st.session_state[key] = asked
    st.session_state[f"{key}-last"] = st.session_state[key]


def whole(name: str, low: int, high: int, default: int) -> int:
    asked = st.query_params.get(name)
    if asked is None or (asked.isdecimal() and low <= int(asked[:18]) <= high):
        return default if asked is None else int(asked)
    _refused(name, asked)
    return default


def real(name: str) -> float | None:
    asked = st.query_params.get(name)
    try:
        value = None if asked is None else float(asked)
    except ValueError:
        value = math.nan
    if value is None or math.isfinite(value):
        return value
    _refused(name, asked)
    return None


def keep(**state) -> None:
    """The URL says this and nothing else; None, empty texts and empty lists are left away."""
    texts = {
        name: ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        for name, value in state.items()
        if value not in (None, "", [], ())
    }
    if texts != st.query_params.to_dict():
        st.query_params.from_dict(texts)


def to(page: str, **state) -> str:
    """A link to a page, for where Streamlit's own cannot stand."""
    return f"/{page}?{urlencode(state)}"


def copy() -> None:
    """The page's link, to be copied, as it is after the page has been drawn."""
    with st.popover("Copy link", icon=":material/link:"):
        st.caption("The run, what is chosen and what is filtered are all in it.")
        st.code(f"{(st.context.url or '').split('?')[0]}{_query()}", language=None, wrap_lines=True)


def _query() -> str:
    given = st.query_params.to_dict()
    return f"?{urlencode(given)}" if given else ""


def _refused(name: str, asked: str) -> None:
    st.warning(f"The link asks for {name} «{asked[:60]}», which is not to be had here.", icon=":material/warning:")
