"""A page's state in its URL: read with a check, and written back, so that a copied link restores what is seen."""

import re
from pathlib import Path
from urllib.parse import urlencode

import streamlit as st

from ui.text import plain

HERE = Path(__file__).parent
_ICON = (  # drawn: not every machine has a font with that sign
    '<svg aria-hidden="true" width="16" height="16" viewBox="0 0 24 24" fill="none" stroke="currentColor" '
    'stroke-width="2" stroke-linecap="round"><path d="M10 14a4 4 0 0 0 6 .5l3-3a4 4 0 0 0-5.7-5.7l-1.2 1.2'
    'M14 10a4 4 0 0 0-6-.5l-3 3a4 4 0 0 0 5.7 5.7l1.2-1.2" /></svg>'
)
_copy = st.components.v2.component(
    "copy_link",
    html=f'<button type="button">{_ICON}<span>Copy link</span></button><span role="status"></span>',
    css=(HERE / "copy_link.css").read_text(encoding="utf-8"),
    js=(HERE / "copy_link.js").read_text(encoding="utf-8"),
)

# What a link may say of a number. Python would take more: signs of other scripts, 5,000 digits, «nan» and «1_000».
WHOLE = re.compile("[0-9]{1,15}")
REAL = re.compile("[+-]?([0-9]{1,15}([.][0-9]{0,20})?|[.][0-9]{1,20})(e[+-]?[0-9]{1,2})?", re.IGNORECASE)


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


def follow(key: str, asked, clearable: bool = False) -> None:
    """Before a widget of this key: what the URL asks for is its value, unless a person, or a click elsewhere on the
    page, has just changed it. So the browser's «back» works, and the widget stays the same while its value changes.
    None is an answer only of a widget that is `clearable` (`needed`).

    What has just been changed is that also at the next drawing, where another click cuts this one short before it
    comes to `keep`: then the URL asks for what it has asked for here."""
    last, before = st.session_state.get(f"{key}-last", (None, None))
    if key not in st.session_state or (st.session_state[key] == last and asked not in (last, before)):
        st.session_state[key] = asked
    if not clearable:
        needed(key, asked)
    st.session_state[f"{key}-last"] = st.session_state[key], asked
    st.session_state.setdefault("followed", set()).add(key)


def needed(key: str, first) -> None:
    """Before a widget of this key that always has an answer: `first`, until there is one. The browser tells a choice as
    empty where another widget makes the page run again before the choice is drawn with its value."""
    if st.session_state.get(key) is None:
        st.session_state[key] = first


def whole(name: str, low: int, high: int, default: int) -> int:
    """A whole number from `low` to `high`."""
    asked = st.query_params.get(name)
    if asked is None:
        return default
    if WHOLE.fullmatch(asked) and low <= int(asked) <= high:
        return int(asked)
    _refused(name, asked)
    return default


def numbers(name: str, low: int, high: int, most: int) -> tuple[int, ...]:
    """Whole numbers from `low` to `high`, separated by commas, each once; `most` of them at most."""
    asked = [part for part in st.query_params.get(name, "").split(",") if part]
    right = [part for part in asked[:most] if WHOLE.fullmatch(part) and low <= int(part) <= high]
    if wrong := [part for part in asked if part not in right]:
        _refused(name, ", ".join(wrong))
    return tuple(dict.fromkeys(map(int, right)))


def real(name: str) -> float | None:
    """A number in decimal or scientific notation."""
    asked = st.query_params.get(name)
    if asked is None:
        return None
    if REAL.fullmatch(asked):
        return float(asked)
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
    for key in st.session_state.pop("followed", ()):
        is_written(key)


def is_written(key: str) -> None:
    """The URL now says what this widget says: what it asks for next, if not that, is «back» or another link."""
    last, _ = st.session_state[f"{key}-last"]
    st.session_state[f"{key}-last"] = last, last


def to(page: str, **state) -> str:
    """A link to a page, for where Streamlit's own cannot stand. Behind a proxy the app's pages are below a path."""
    base = (st.get_option("server.baseUrlPath") or "").strip("/")
    return f"{f'/{base}' if base else ''}/{page}?{urlencode(state)}"


def copy() -> None:
    """A button that copies the page's address: the one that the visitor used, with what the page has written to it."""
    _copy(key="copy-link", data={"label": "Copy link", "copied": "Copied", "failed": "Copy this address:"})


def _refused(name: str, asked: str) -> None:
    if st.session_state.get("run changed"):  # by a person, on the page: what the address says is of the run before
        return
    # Below the page's title, where the shell keeps a place: a row of filters would break.
    st.session_state.get("remarks", st).warning(
        f"The link asks for {name} «{plain(asked[:60])}», which does not exist here.", icon=":material/warning:"
    )
