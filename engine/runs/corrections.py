"""What a person decided on the labels of a run's training images, with all that leads back from it. No torch.

`outputs/<run_id>/corrections.json`, beside the notes and like them no part of what was computed: it stands under no
checksum, stays when the run is cleaned up, and has a lock of its own (`.corrections.lock`).

    {"labels": {"17": 3},                        another label, a number of a class, by training image
     "excluded": [5, 9],                         training images that are to be left out
     "looked_at": ["17", "5", "file:cat/1.png"], what was gone through in *Triage*; an unreadable file is no image
     "history": [{"decided": [[17, null, 3]], "looked_at": ["17"]},
                 {"ticked": [[4, false, true]]}]}

A step of the history has, by image, what was so before and since: `null` is the label given, a number another label,
"excluded" an image that is left out. `undo` takes the last step back, and so on to the first. A tick stands in the
run's notes (`engine.runs.notes`), for it is that of all pages; its step is here, so that one key undoes either.

Before there was this file, the notes held what *Find bad labels* had decided, as a set of their own: it is read as the
corrections of a run that has no file yet.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine import files
from engine.errors import ConfigError, IntegrityError
from engine.runs import notes
from engine.runs.lock import FileLock
from engine.runs.run import Run

NAME = "corrections.json"

EXCLUDED = "excluded"

Decision = int | str | None
"""Of one training image: the number of a class, `EXCLUDED`, or None where its label stays as given."""

REMEDY = "Correct it, or delete the file: the run's results do not depend on it."

FIELDS = {"labels", "excluded", "looked_at", "history"}  # of the file, each of them

MOST_FILES = 100_000  # that cannot be read, among what was looked at

LONGEST = 4200  # characters of the name of such a file: as long as a path can be


@dataclass(frozen=True)
class Corrections:
    """Other labels, numbers of classes by training image, and the training images to leave out: no image is in both."""

    labels: Mapping[int, int] = field(default_factory=dict)
    excluded: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if both := self.labels.keys() & self.excluded:
            raise ConfigError(
                f"Training image {min(both)} has another label and is left out at once.", "Choose one of the two."
            )

    def __len__(self) -> int:
        return len(self.labels) + len(self.excluded)

    def of(self, index: int) -> Decision:
        return EXCLUDED if index in self.excluded else self.labels.get(index)

    def changed(self, decisions: Mapping[int, Decision]) -> "Corrections":
        """With other decisions on some images."""
        labels = {i: label for i, label in self.labels.items() if i not in decisions}
        labels |= {i: label for i, label in decisions.items() if isinstance(label, int)}
        excluded = self.excluded - decisions.keys() | {i for i, what in decisions.items() if what == EXCLUDED}
        return Corrections(dict(sorted(labels.items())), frozenset(excluded))

    def check(self, images: int, classes: int) -> "Corrections":
        """The same corrections. Raises `ConfigError` for an image or a class that is not there."""
        for index in (*self.labels, *self.excluded):
            if not 0 <= index < images:
                raise ConfigError(f"There is no training image {index}.", f"They are numbered from 0 to {images - 1}.")
        for index, label in self.labels.items():
            if not 0 <= label < classes:
                raise ConfigError(
                    f"Image train:{index} cannot get label {label}.",
                    f"The classes are numbered from 0 to {classes - 1}.",
                )
        return self


@dataclass(frozen=True)
class Step:
    """One thing that a person did: by image what was decided, or ticked, before and since; and what was looked at for
    the first time."""

    decided: tuple[tuple[int, Decision, Decision], ...] = ()
    ticked: tuple[tuple[int, bool, bool], ...] = ()
    looked_at: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            name: [list(v) if isinstance(v, tuple) else v for v in value] for name, value in values.items() if value
        }


@dataclass(frozen=True)
class Record:
    """All that the file holds. `looked_at`: numbers of training images as texts, and `file:NAME`."""

    corrections: Corrections = Corrections()
    looked_at: frozenset[str] = frozenset()
    history: tuple[Step, ...] = ()


# -- reading


def read(run: Run, images: int | None = None, classes: int | None = None) -> Corrections:
    """Raises `IntegrityError` where the file holds no corrections of a run, or (with `images` and `classes`, how many
    there are) speaks of one that is not there."""
    return read_record(run, images, classes).corrections


def read_record(run: Run, images: int | None = None, classes: int | None = None) -> Record:
    """With what was looked at and the history; raises as `read`."""
    path = run.path / NAME
    record = _read(path) if os.path.lexists(path) else Record(_of_notes(run))
    if images is not None and classes is not None:
        try:
            record.corrections.check(images, classes)
        except ConfigError as error:
            raise IntegrityError(f"{path} is of other data: {error.what} {error.remedy}", REMEDY) from None
    return record


def _of_notes(run: Run) -> Corrections:
    before = notes.read(run)
    labels = before.labels_in(notes.LABELS)
    return Corrections(dict(labels), frozenset(before.ticked_in(notes.LABELS)) - labels.keys())


def _read(path: Path) -> Record:
    try:
        status = path.lstat()
    except OSError:
        return _parsed(path)
    if not files.is_settled(status.st_mtime_ns):
        return _parsed(path)
    return _known(path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@lru_cache(maxsize=64)
def _known(path: Path, *identity: int) -> Record:
    return _parsed(path)


def _parsed(path: Path) -> Record:
    value = files.read_json(path, REMEDY)
    try:
        return _record(value)
    except (ConfigError, ValueError) as error:
        said = error.what if isinstance(error, ConfigError) else str(error)
        raise IntegrityError(f"{path} does not hold corrections of a run: {said}.", REMEDY) from None


def _record(value: Any) -> Record:
    """Raises `ValueError` that says what is wrong with the content of a file."""
    if not isinstance(value, dict) or value.keys() != FIELDS:
        raise ValueError(f"it is not one object with {', '.join(sorted(FIELDS))}")
    labels, excluded, looked_at, history = (value[name] for name in ("labels", "excluded", "looked_at", "history"))
    if not isinstance(labels, dict) or not all(map(_is_index_text, labels)):
        raise ValueError("the labels are not by training image")
    if not all(map(_is_index, labels.values())):
        raise ValueError("a label is not the number of a class")
    if not isinstance(excluded, list) or not all(map(_is_index, excluded)):
        raise ValueError("the images that are left out are not whole numbers")
    if not isinstance(looked_at, list) or not all(map(_is_item, looked_at)):
        raise ValueError("what was looked at is neither an image nor a file")
    if not isinstance(history, list):
        raise ValueError("its history is no list")
    corrections = Corrections({int(i): label for i, label in labels.items()}, frozenset(excluded))
    return Record(corrections, frozenset(looked_at), tuple(map(_step, history)))


def _step(value: Any) -> Step:
    names = {f.name for f in dataclasses.fields(Step)}
    if not isinstance(value, dict) or not value.keys() <= names or not all(isinstance(v, list) for v in value.values()):
        raise ValueError("a step of its history is not what was decided, ticked or looked at")
    for name, is_value in (("decided", _is_decision), ("ticked", lambda on: type(on) is bool)):
        for each in value.get(name, ()):
            if (
                not isinstance(each, list)
                or len(each) != 3
                or not _is_index(each[0])
                or not all(map(is_value, each[1:]))
            ):
                raise ValueError("a step of its history is not an image, with what was before and since")
    if not all(map(_is_item, value.get("looked_at", ()))):
        raise ValueError("a step of its history has looked at what is neither an image nor a file")
    return Step(
        tuple(map(tuple, value.get("decided", ()))),
        tuple(map(tuple, value.get("ticked", ()))),
        tuple(value.get("looked_at", ())),
    )


def _is_index(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_index_text(name: Any) -> bool:
    return isinstance(name, str) and name.isascii() and name.isdecimal() and name == str(int(name[:18]))


def _is_item(name: Any) -> bool:
    return _is_index_text(name) or (isinstance(name, str) and name.startswith("file:") and len(name) <= LONGEST)


def _is_decision(value: Any) -> bool:
    return value is None or value == EXCLUDED or _is_index(value)


# -- writing


def write(
    run: Run,
    corrections: Corrections,
    *,
    expected: Corrections | None = None,
    images: int | None = None,
    classes: int | None = None,
) -> None:
    """The corrections from now on, as one step that can be undone. With `expected`, those that the writer saw: raises
    `ConfigError`, and writes nothing, where another tab or process has written others since."""
    with _lock(run):
        before = read_record(run)
        if expected is not None and before.corrections != expected:
            raise ConfigError(
                f"The corrections of run {run.id} were changed in another tab meanwhile. Yours were not saved.",
                "Look at them again, and then save yours.",
            )
        images_of_both = sorted({*corrections.labels, *corrections.excluded, *_images_of(before.corrections)})
        _decide(run, before, {i: corrections.of(i) for i in images_of_both}, (), images, classes)


def decide(
    run: Run,
    decisions: Mapping[int, Decision],
    images: int,
    classes: int,
    *,
    seen: Mapping[int, Decision] | None = None,
    looked_at: Iterable[str] = (),
) -> None:
    """Decides on some training images, as one step; what others decided meanwhile on other images stays. With `seen`,
    what the person saw of them: raises `ConfigError`, and writes nothing, where another has decided otherwise since."""
    with _lock(run):
        before = read_record(run)
        for index, was in (seen or {}).items():
            now = before.corrections.of(index)
            if now not in (was, decisions[index]):
                raise ConfigError(
                    f"Training image {index} was decided on in another tab meanwhile. Yours was not saved.",
                    "It is shown as it is now: press the key again if yours is right.",
                )
        _decide(run, before, decisions, looked_at, images, classes)


def look(run: Run, items: Iterable[str]) -> None:
    """Remembers what a person has gone through: numbers of training images as texts, `file:NAME`."""
    with _lock(run):
        before = read_record(run)
        if more := _not_yet(before, items):
            _write(run, dataclasses.replace(before, looked_at=before.looked_at | {*more}))


def tick(run: Run, changes: Mapping[int, bool], images: int) -> None:
    """Ticks (True) and unticks training images in the run's one selection, that of its notes, as a step that can be
    undone."""
    with _lock(run):
        before, ticked = read_record(run), set(notes.read(run).ticked)
        notes.tick(run, changes, images)
        step = Step(ticked=tuple((i, i in ticked, on) for i, on in changes.items() if (i in ticked) != on))
        if step != Step():
            _write(run, dataclasses.replace(before, history=(*before.history, step)))


def undo(run: Run, images: int) -> Step | None:
    """Takes the last step back, and returns it; None where there is none. What it changed is as it was before."""
    with _lock(run):
        before = read_record(run)
        if not before.history:
            return None
        *history, step = before.history
        if step.ticked:
            notes.tick(run, {i: was for i, was, _ in step.ticked if i < images}, images)
        corrections = before.corrections.changed({i: was for i, was, _ in step.decided})
        _write(run, Record(corrections, before.looked_at - {*step.looked_at}, tuple(history)))
        return step


def _images_of(corrections: Corrections) -> set[int]:
    return {*corrections.labels, *corrections.excluded}


def _not_yet(record: Record, items: Iterable[str]) -> tuple[str, ...]:
    return tuple(item for item in dict.fromkeys(items) if item not in record.looked_at)


def _decide(
    run: Run,
    before: Record,
    decisions: Mapping[int, Decision],
    looked_at: Iterable[str],
    images: int | None,
    classes: int | None,
) -> None:
    """For who holds the lock."""
    corrections = before.corrections.changed(decisions)
    if images is not None and classes is not None:
        Corrections(
            {i: label for i, label in corrections.labels.items() if i in decisions},
            corrections.excluded & decisions.keys(),
        ).check(images, classes)
    was = before.corrections
    decided = tuple((i, was.of(i), what) for i, what in decisions.items() if was.of(i) != what)
    step = Step(decided=decided, looked_at=_not_yet(before, looked_at))
    if step != Step():
        _write(run, Record(corrections, before.looked_at | {*step.looked_at}, (*before.history, step)))


def _lock(run: Run) -> FileLock:
    Run.open(run.root, run.id)  # deleted in another tab, perhaps
    busy = f"The corrections of run {run.id} are being written by another process.", "Try again."
    return FileLock(run.path / ".corrections.lock", busy, notes.PATIENCE)


def _write(run: Run, record: Record) -> None:
    numbers = sorted(int(item) for item in record.looked_at if not item.startswith("file:"))
    names = sorted(item for item in record.looked_at if item.startswith("file:"))[:MOST_FILES]
    content = {
        "labels": {str(i): label for i, label in sorted(record.corrections.labels.items())},
        "excluded": sorted(record.corrections.excluded),
        "looked_at": [*map(str, numbers), *names],
        "history": [step.to_json() for step in record.history],
    }
    try:
        _record(content)  # what would not be read again is not written
    except ValueError as error:
        raise ConfigError(f"The corrections of run {run.id} cannot be written: {error}.", "Decide otherwise.") from None
    files.write_json(run.path / NAME, content)
