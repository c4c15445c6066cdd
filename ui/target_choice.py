"""The target that a page shows, chosen from those of its run."""

import streamlit as st

from engine.runs.scores import TargetRef
from ui import link
from ui.run_choice import RunView


def chosen(run: RunView, key: str, best: str | None = None, place=st, on_change=None) -> TargetRef:
    """The target of `?target=`, or `best` (else the first), or one that is chosen. The widget has the key `key`."""
    keys = list(run.targets)
    link.follow(key, link.one_of("target", keys, best or keys[0]))
    return run.targets[place.selectbox("Target", keys, format_func=run.titles.get, key=key, on_change=on_change)]
