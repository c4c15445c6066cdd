"""What a person says of a run: its name, training images ticked, notes on images and on the run. No torch.

`outputs/<run_id>/notes.json`, apart from what was computed: people change it at any time, also while a
job works on the run, so it needs no lock of the run and stands under no checksum. A lock of its own
(`.notes.lock`) keeps what two tabs, or two processes, write at once.

    {"ticked": [3, 7],                              training images of the set `INFLUENCE`
     "notes": {"run": "…", "3": "…"},
     "sets": {"labels": [23, 40]},                  the other sets of ticks; left away where nothing is ticked
     "new_labels": {"labels": {"23": 6}},           other labels for ticked images; left away where there are none
     "name": "Long training",                       of the run; left away where it has none
     "themes": {"0f3a…": "Dark coats"},             names of themes, by `engine.analysis.themes.Theme.key`
     "group": {"name": "…", "seeds": [0, 1, 2]}}    of trainings that differ in their seed; left away where it is alone
"""

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine import files
from engine.errors import ConfigError, IntegrityError
from engine.runs.lock import FileLock
from engine.runs.run import RUN_ID, Run

LONGEST = 10_000  # characters of a note

LONGEST_NAME = 80  # characters of a name, of a run or of a theme

SETS = INFLUENCE, LABELS = "influence", "labels"  # sets of ticks: what to leave out, and labels that are wrong

REQUIRED, OPTIONAL = {"ticked", "notes"}, {"sets", "new_labels", "name", "themes", "group"}  # of the file

THEME = re.compile("[0-9a-f]{16}")  # what a theme is told by

RUN = "run"  # the name of the note on the run as a whole

REMEDY = "Correct it, or delete the file: the run's results do not depend on it."

PATIENCE = 10.0  # seconds for which others may be writing notes of the same run


@dataclass(frozen=True)
class SeedGroup:
    """Trainings of one recipe with several seeds, as one action asked for them (`engine.jobs.repeat`): `name` is the
    id of the run that was repeated, `seeds` are those of all, its own first. Each of its runs has the same record;
    which of the seeds is its own, its recipe says."""

    name: str
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Notes:
    """`ticked` are training indices in order, of the set `INFLUENCE`, `sets` those of the others by their name;
    `new_labels` of a set are class numbers by training index, of some that are ticked; `notes` a text by `RUN` or
    training index; `name` the run's, or ""; `themes` names of themes, by their keys; `group` that it belongs to."""

    ticked: tuple[int, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    sets: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    new_labels: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    name: str = ""
    group: SeedGroup | None = None
    themes: Mapping[str, str] = field(default_factory=dict)

    def of(self, what: int | str) -> str:
        return self.notes.get(str(what), "")

    def ticked_in(self, set_name: str) -> tuple[int, ...]:
        return self.ticked if set_name == INFLUENCE else self.sets.get(set_name, ())

    def labels_in(self, set_name: str) -> Mapping[int, int]:
        return self.new_labels.get(set_name, {})


def read(run: Run, images: int | None = None) -> Notes:
    """Raises `IntegrityError` where the file is no notes of a run, or (with `images`, how many training images there
    are) speaks of one that is not there."""
    path = _path(run)
    return _read(path, images) if os.path.lexists(path) else Notes()


def _path(run: Run) -> Path:
    return run.path / "notes.json"


def _read(path: Path, images: int | None = None) -> Notes:
    value = files.read_json(path, REMEDY)
    problem = _problem(value, images)
    if problem:
        raise IntegrityError(f"{path} does not hold notes of a run: {problem}.", REMEDY)
    return Notes(
        _in_order(value["ticked"]),
        value["notes"],
        {name: _in_order(ticked) for name, ticked in value.get("sets", {}).items()},
        {name: {int(i): c for i, c in labels.items()} for name, labels in value.get("new_labels", {}).items()},
        value.get("name", ""),
        SeedGroup(value["group"]["name"], tuple(value["group"]["seeds"])) if "group" in value else None,
        value.get("themes", {}),
    )


def name_of(run: Run) -> str:
    """The name that a person gave the run; "" where it has none, and where its notes cannot be read, which the pages
    that show them say."""
    return at_a_glance(run).name


def group_of(run: Run) -> SeedGroup | None:
    """The group that the run belongs to; None where it is alone, and where its notes cannot be read."""
    return at_a_glance(run).group


def at_a_glance(run: Run) -> Notes:
    """For lists of many runs: a file is read again only where it changed, and one that cannot be read says nothing."""
    path = _path(run)
    try:
        identity = files.settled_identity(path)
        return _known(path, *identity) if identity else _read(path)
    except (OSError, IntegrityError):
        return Notes()


@lru_cache(maxsize=4096)
def _known(path: Path, *identity: int) -> Notes:
    return _read(path)


def _in_order(indices) -> tuple[int, ...]:
    return tuple(sorted(set(indices)))


def _problem(value: Any, images: int | None) -> str:
    """What is wrong with the content of a file of notes; "" where nothing is."""
    if not isinstance(value, dict) or not REQUIRED <= value.keys() <= REQUIRED | OPTIONAL:
        return "it is not one object with ticked and notes"
    notes, sets, new_labels = value["notes"], value.get("sets", {}), value.get("new_labels", {})
    name = value.get("name", "")
    if not isinstance(name, str) or len(name) > LONGEST_NAME:
        return f"the run's name is no text of at most {LONGEST_NAME} characters"
    if problem := _problem_of_themes(value.get("themes", {})):
        return problem
    if "group" in value and (problem := _problem_of_group(value["group"])):
        return problem
    if not isinstance(sets, dict) or not sets.keys() <= set(SETS) - {INFLUENCE}:
        return "the sets of ticked images are not those of a run"
    all_sets = {INFLUENCE: value["ticked"], **sets}
    if not all(isinstance(ticked, list) and all(map(_is_index, ticked)) for ticked in all_sets.values()):
        return "the ticked images are not whole numbers"
    if problem := _problem_of_labels(new_labels, all_sets):
        return problem
    if not isinstance(notes, dict) or not all(isinstance(text, str) for text in notes.values()):
        return "the notes are not texts"
    if any(len(text) > LONGEST for text in notes.values()):
        return f"a note has more than {LONGEST:,} characters"
    indices = [name for name in notes if name != RUN]
    if not all(map(_is_index_text, indices)):
        return "a note is on no training image"
    largest = max([*(i for ticked in all_sets.values() for i in ticked), *map(int, indices)], default=-1)
    if images is not None and largest >= images:
        return f"there is no training image {largest}; they are numbered from 0 to {images - 1}"
    return ""


def _problem_of_themes(themes: Any) -> str:
    if not isinstance(themes, dict) or not all(map(THEME.fullmatch, themes)):
        return "the names of its themes are not by theme"
    if not all(isinstance(name, str) and len(name) <= LONGEST_NAME for name in themes.values()):
        return f"the name of a theme is no text of at most {LONGEST_NAME} characters"
    return ""


def _problem_of_group(group: Any) -> str:
    if not isinstance(group, dict) or group.keys() != {"name", "seeds"}:
        return "its group is not one object with name and seeds"
    name, seeds = group["name"], group["seeds"]
    if not isinstance(name, str) or not RUN_ID.fullmatch(name):
        return "the name of its group is no run id"
    if not isinstance(seeds, list) or not seeds or not all(map(_is_index, seeds)) or len({*seeds}) < len(seeds):
        return "the seeds of its group are not whole numbers, each once"
    return ""


def _problem_of_labels(new_labels: Any, sets: dict[str, list[int]]) -> str:
    if not isinstance(new_labels, dict) or not new_labels.keys() <= sets.keys():
        return "the new labels are not of its sets of ticked images"
    for name, labels in new_labels.items():
        if not isinstance(labels, dict) or not all(map(_is_index_text, labels)):
            return "the new labels are not by training image"
        if not all(map(_is_index, labels.values())):
            return "a new label is not the number of a class"
        if not {int(index) for index in labels} <= set(sets[name]):
            return "an image with a new label is not ticked"
    return ""


def _is_index(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_index_text(name: str) -> bool:
    return name.isascii() and name.isdecimal() and name == str(int(name[:18]))


def tick(run: Run, changes: Mapping[int, bool], images: int, set_name: str = INFLUENCE) -> frozenset[int]:
    """Ticks (True) and unticks training images of a set, each an index below `images`; what is unticked loses its new
    label. Returns those that were ticked before."""
    _check_index(changes, images)
    with _lock(run):
        old = read(run)
        before = frozenset(old.ticked_in(set_name))
        ticked = {*before - changes.keys(), *(i for i, on in changes.items() if on)}
        _write(run, _with(old, set_name, ticked, old.labels_in(set_name)))
    return before


def relabel(run: Run, labels: Mapping[int, int | None], images: int, classes: int, set_name: str = INFLUENCE) -> None:
    """Gives training images, each an index below `images`, other labels, below `classes`, and ticks them; with None an
    image loses its new label and stays ticked."""
    _check_index(labels, images)
    for index, label in labels.items():
        if label is not None and not 0 <= label < classes:
            raise ConfigError(
                f"Image train:{index} cannot get label {label}.", f"The classes are numbered from 0 to {classes - 1}."
            )
    with _lock(run):
        old = read(run)
        after = {i: label for i, label in {**old.labels_in(set_name), **labels}.items() if label is not None}
        _write(run, _with(old, set_name, {*old.ticked_in(set_name), *labels}, after))


def _with(old: Notes, set_name: str, ticked: set[int], labels: Mapping[int, int]) -> Notes:
    """The notes with another set of ticks. Images that are not ticked have no new label."""
    labels = {index: label for index, label in sorted(labels.items()) if index in ticked}
    new_labels = {**old.new_labels, set_name: labels}
    if set_name == INFLUENCE:
        return dataclasses.replace(old, ticked=_in_order(ticked), new_labels=new_labels)
    return dataclasses.replace(old, sets={**old.sets, set_name: _in_order(ticked)}, new_labels=new_labels)


def write_note(run: Run, what: int | str, text: str, images: int | None = None, instead_of: str | None = None) -> None:
    """The note on a training image (an index below `images`), or on the whole run (`RUN`); an empty text deletes it.
    With `instead_of`, the note that its writer saw: raises `ConfigError`, and writes nothing, where another has written
    a different one since."""
    if what != RUN:
        _check_index([int(what)], images)
    text = text.strip()
    _check_text("note", text, LONGEST)
    with _lock(run):
        old = read(run)
        if instead_of is not None and old.of(what) not in (instead_of, text):
            raise ConfigError(
                f"This note was changed in another tab meanwhile: «{old.of(what)}». Yours was not saved.",
                "Bring the two together in the field, and leave it: what stands there then is saved.",
            )
        notes = {name: each for name, each in old.notes.items() if name != str(what)}
        _write(run, dataclasses.replace(old, notes=notes | ({str(what): text} if text else {})))


def write_name(run: Run, text: str) -> None:
    """The run's name, on one line; an empty text takes it away."""
    name = " ".join(text.split())
    _check_text("name", name, LONGEST_NAME)
    with _lock(run):
        _write(run, dataclasses.replace(read(run), name=name))


def write_theme(run: Run, key: str, text: str) -> None:
    """A theme's name, on one line; an empty text takes it away."""
    name = " ".join(text.split())
    _check_text("name", name, LONGEST_NAME)
    with _lock(run):
        old = read(run)
        themes = {other: each for other, each in old.themes.items() if other != key}
        _write(run, dataclasses.replace(old, themes=themes | ({key: name} if name else {})))


def write_group(run: Run, group: SeedGroup) -> None:
    """The group that the run belongs to from now on."""
    with _lock(run):
        _write(run, dataclasses.replace(read(run), group=group))


def _check_text(what: str, text: str, longest: int) -> None:
    if len(text) > longest:
        raise ConfigError(f"The {what} has {len(text):,} characters.", f"Shorten it to {longest:,}.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"The {what} has half of a character in it (a lone surrogate), which no file can hold.", "Type it again."
        ) from None


def _check_index(indices, images: int | None) -> None:
    for index in indices:
        if index < 0 or (images is not None and index >= images):
            last = "" if images is None else f" to {images - 1}"
            raise ConfigError(f"There is no training image {index}.", f"They are numbered from 0{last}.")


def _lock(run: Run) -> FileLock:
    Run.open(run.root, run.id)  # deleted in another tab, perhaps
    busy = f"The notes of run {run.id} are being written by another process.", "Try again."
    return FileLock(run.path / ".notes.lock", busy, PATIENCE)


def _write(run: Run, notes: Notes) -> None:
    content: dict[str, Any] = {"ticked": list(notes.ticked), "notes": dict(notes.notes)}
    if sets := {name: list(ticked) for name, ticked in notes.sets.items() if ticked}:
        content["sets"] = sets
    if labels := {name: {str(i): c for i, c in of.items()} for name, of in notes.new_labels.items() if of}:
        content["new_labels"] = labels
    if notes.name:
        content["name"] = notes.name
    if notes.themes:
        content["themes"] = dict(notes.themes)
    if notes.group is not None:
        content["group"] = {"name": notes.group.name, "seeds": list(notes.group.seeds)}
    if problem := _problem(content, None):  # what would not be read again is not written
        raise ConfigError(f"The notes of run {run.id} cannot be written: {problem}.", "Shorten them.")
    files.write_json(_path(run), content)
