"""What the form holds: settings that it starts from, and what a person changed of them. No widget remembers anything.

    settings = base, then what goes with a changed choice, then the changes

The draft is a value in the session, another for every change. Widgets show it, and write into it before the page is
drawn; so a field that is hidden keeps its setting, and a page that is drawn shows one state from top to bottom.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import streamlit as st

from engine import config as configs
from engine.config import RunConfig
from engine.datasets.base import Dataset
from ui import formats

PROPOSAL, FILE = "proposal", "file"  # beside the names of the presets
KEY = "draft"


@dataclass(frozen=True)
class Draft:
    """`source` is `PROPOSAL`, `FILE` or a preset's name; `title` names it in words. `targets_of` is the data set that
    a person's own targets were chosen on."""

    source: str
    title: str
    base: RunConfig
    reasons: tuple[str, ...] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)
    targets_of: str = ""

    @functools.cached_property
    def goes_with(self) -> dict[str, tuple[str, Any]]:
        """By setting: the choice of a person that it goes with, and the value that suits it."""
        fits: dict[str, tuple[str, Any]] = {}
        for setting, choices in configs.GOES_WITH.items():
            chosen = self.changes.get(setting)
            if chosen is not None and chosen != configs.get(self.base, setting):
                fits |= {name: (chosen, value) for name, value in choices.get(chosen, {}).items()}
        return fits

    @functools.cached_property
    def proposed(self) -> RunConfig:
        """The settings but for a person's own."""
        base = self.base.replace(**{name: value for name, (_, value) in self.goes_with.items()})
        # A preset's name stands for its measured results, which another training does not have.
        return base.replace(preset="own") if self.source in configs.PRESETS and self._trains_otherwise() else base

    @functools.cached_property
    def config(self) -> RunConfig:
        return self.proposed.replace(**self.changes)

    def _trains_otherwise(self) -> bool:
        before = {name: value for name, value in self.changes.items() if value != configs.get(self.base, name)}
        return any(name.partition(".")[0] in configs.TRAINING for name in before)

    @functools.cached_property
    def changed(self) -> dict[str, tuple[Any, Any]]:
        """By setting: what was proposed, and what a person made of it."""
        proposed = self.proposed
        pairs = {name: (configs.get(proposed, name), value) for name, value in self.changes.items()}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    def with_(self, name: str, value: Any) -> "Draft":
        changes = {**self.changes, name: value}
        if value == configs.get(replace(self, changes=_without(changes, name)).proposed, name):
            changes = _without(changes, name)
        return replace(self, changes=changes)

    def without(self, *names: str) -> "Draft":
        """What is proposed again, in the place of a person's own."""
        return replace(self, changes=_without(self.changes, *names))


def _without(changes: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if name not in names}


@dataclass(frozen=True)
class Form:
    """One drawing of the form: the draft, its settings, their data (None where they cannot be had), what is wrong with
    each, and whether nothing can be changed."""

    draft: Draft
    config: RunConfig
    dataset: Dataset | None
    problems: dict[str, str]
    unread: set[str]
    disabled: bool

    @property
    def ready(self) -> bool:
        return self.dataset is not None and not self.problems


def form_of(draft: Draft, dataset: Dataset | None, disabled: bool) -> Form:
    config = draft.config
    problems = configs.problems(config) if dataset is None else configs.problems(config, *dataset.sizes)
    problems |= configs.offered_problems(config)  # a browser can send any text, and the estimate builds the model
    return Form(draft, config, dataset, problems, configs.unread(config), disabled)


# -- in the session


def now() -> Draft:
    return st.session_state[KEY]


def put(draft: Draft) -> None:
    st.session_state[KEY] = draft


def change(name: str, value: Any) -> None:
    """A person's own value of a setting."""
    draft = now().with_(name, value)
    if name == "targets":
        draft = replace(draft, targets_of=draft.base.dataset)
    put(draft)


def put_back(*names: str) -> None:
    put(now().without(*names))


def label(name: str) -> str:
    """What people read of a setting, also of one that came later than the table of labels."""
    return formats.LABELS.get(name) or name.rpartition(".")[2].replace("_", " ").capitalize()


def written(name: str, value: Any) -> str:
    """A setting's value in a few words."""
    if name in configs.LISTS:
        return configs.LISTS[name].write(value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "targets":
        return formats.count(len(value), "targets") if len(value) > 2 else ", ".join(value) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value) or "none"
