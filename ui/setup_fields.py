"""One widget for one setting, of the kind that the tables of `engine.config` say, its problem beside it.

A setting that is added to those tables is drawn without a line here, and one whose choice does not read it is hidden.
"""

from collections.abc import Iterable
from typing import Any

import streamlit as st

from engine import config as configs
from engine import config_file
from ui import setup_draft
from ui.setup_draft import Form, label
from ui.text import line, plain

LONGEST = 2000  # characters of a text


def key_of(name: str) -> str:
    """The key of a setting's widget."""
    return f"set-{name}"


def show(key: str, value: Any) -> None:
    """Before a widget of this key: its value is the draft's, whatever the widget remembers."""
    if key not in st.session_state or st.session_state[key] != value:
        st.session_state[key] = value


def begin(key: str, value: Any, empty: Any) -> Any:
    """As `show`, for widgets that may stand in a folded part: the value that the widget itself begins with.

    A browser that mounts a widget later than it was sent knows of no value but that one, and would send another as a
    person's choice. `empty` where the widget stands there with another value: Streamlit takes one of the two.
    """
    if key not in st.session_state or st.session_state[key] == value:
        return value
    st.session_state[key] = value
    return empty


def names_of(section: str) -> list[str]:
    """The settings of one section of the TOML file."""
    return [name for place, _, name in config_file.settings() if place == section]


def shown(form: Form, names: Iterable[str]) -> list[str]:
    """Those that count: a setting that nobody reads is hidden, but not where something is wrong with it."""
    return [name for name in names if name not in form.unread or name in form.problems]


def fields(form: Form, names: Iterable[str], across: int = 3, explained: bool = False) -> None:
    """Widgets side by side; `explained` has in full view what each is, else behind its question mark."""
    names = shown(form, names)
    for first in range(0, len(names), across):
        for column, name in zip(st.columns(across), names[first : first + across], strict=False):
            with column:
                field(form, name, explained)


def field(form: Form, name: str, explained: bool = False) -> None:
    widget(form, name, plain_words(name))
    if explained:
        st.caption(plain(config_file.what(name)))
    remarks(form, name)


def plain_words(name: str) -> str:
    """What the tables say of a setting, as Markdown."""
    about = config_file.about(name)
    return plain(about) if about else ""


def remarks(form: Form, name: str) -> None:
    """Below a field: what is wrong with it, and what it would be had a person changed nothing."""
    if name in form.problems:
        st.error(f"{label(name)} {plain(form.problems[name])}.")
    if name in (changed := form.draft.changed):
        st.caption(f":material/edit: Yours; proposed: {plain(setup_draft.written(name, changed[name][0]))}")
    elif name in form.draft.goes_with:
        choice, before = form.draft.goes_with[name][0], setup_draft.written(name, configs.get(form.draft.base, name))
        st.caption(f":material/link: Goes with {plain(choice)}; without it: {plain(before)}")


def widget(form: Form, name: str, help: str | None) -> None:
    value, key = configs.get(form.config, name), key_of(name)
    options: dict[str, Any] = {
        "key": key,
        "help": help,
        "disabled": form.disabled,
        "on_change": take,
        "args": (name,),
    }
    if name in configs.CHOICES:
        choices = list(dict.fromkeys([*configs.CHOICES[name], value]))
        first = choices.index(begin(key, value, choices[0]))
        st.selectbox(label(name), choices, first, format_func=line, **options)
    elif name in configs.FLAGS:
        st.checkbox(label(name), begin(key, value, False), **options)
    elif name in configs.LISTS:
        text = begin(key, configs.LISTS[name].write(value), "")
        st.text_input(label(name), text, max_chars=LONGEST, placeholder=configs.LISTS[name].form, **options)
    elif name in configs.RANGES:
        whole = configs.RANGES[name].kind is int
        number = begin(key, value, None)
        st.number_input(label(name), value=number, step=1 if whole else None, format=None if whole else "%g", **options)
    else:
        st.text_input(label(name), begin(key, value, ""), max_chars=LONGEST, **options)


def take(name: str) -> None:
    """Into the draft, what the widget of a setting says."""
    value = st.session_state[key_of(name)]
    if value is None:  # a number that was deleted
        setup_draft.put_back(name)
    elif name in configs.LISTS:
        setup_draft.change(name, configs.LISTS[name].read(value))
    elif name in configs.RANGES and configs.RANGES[name].kind is float:
        setup_draft.change(name, float(value))
    else:
        setup_draft.change(name, value)


def advanced(form: Form, names: Iterable[str]) -> None:
    """What few people need, folded."""
    names = shown(form, names)
    wrong = [name for name in names if name in form.problems]
    if names:
        with st.expander("Advanced", expanded=bool(wrong)):
            fields(form, names)
