"""The file of what a person decided on the labels of a run's training images: each decision is one line at its end.

`outputs/<run_id>/corrections.jsonl`, JSON, one object a line. The first line is how all stood when the file was begun:

    {"labels": {"17": 3},                        another label, a number of a class, by training image
     "excluded": [5, 9],                         training images that are to be left out
     "looked_at": ["17", "5", "file:cat/1.png"], what was gone through in *Triage*; an unreadable file is no image
     "history": [STEP, …]}                       what `undo` goes back through, the last one first

and each line after it is what was done since:

    {"decided": [[17, null, 3]], "looked_at": ["17"]}    a step, or
    {"ticked": [[4, false, true]]}                       another; either may have what was looked at first by it
    {"passed": ["17"]}                                   looked at without a decision; no step, and not undone
    {"undone": true}                                     the last step was taken back

A step has, by image, what was so before and since: `null` is the label given, a number another label, "excluded" an
image that is left out. So a decision costs what it says and not what was decided before it: 50 bytes and one sync,
after 5,000 steps as after none. Whoever reads keeps what he has read, and reads on from there.

A line without an end is one that is being written, or whose writer died; it counts as not written, and the next writer
cuts it off. A file that has grown by more than `BEGUN_AGAIN` is begun again, with the steps that fit into half of that.

Until version 0.2 the first line was the whole file, `corrections.json`, written anew for each decision: it is read
where there is no other, and becomes the first line with the next decision.
"""

import dataclasses
import io
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine import files
from engine.errors import ConfigError, IntegrityError

NAME = "corrections.jsonl"

BEFORE = "corrections.json"  # of versions that wrote all of it for each decision

EXCLUDED = "excluded"

Decision = int | str | None
"""Of one training image: the number of a class, `EXCLUDED`, or None where its label stays as given."""

REMEDY = "Correct it, or delete the file: the run's results do not depend on it."

FIELDS = {"labels", "excluded", "looked_at", "history"}  # of the first line, each of them

BEGUN_AGAIN = 8 << 20  # bytes that a file grows by: about 150,000 decisions

TAIL = 256  # bytes before the end of what was read, by which a file is known that has only grown since

KNOWN = 64  # files whose content is kept

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


# -- the file


UNDONE, PASSED = "undone", "passed"  # what a line after the first is, where it is no step


class _Journal:
    """What was read of a file up to `end`, the end of its last whole line. For one thread at a time."""

    def __init__(self, path: Path):
        self.path = path
        self._forget()

    def _forget(self) -> None:
        self.first = self.end = self._lines = 0  # the end of the first line, and of all of them; how many
        self._identity: tuple[int, ...] = ()
        self._tail = b""
        self._labels: dict[int, int] = {}
        self._excluded: set[int] = set()
        self._looked_at: set[str] = set()
        self._history: list[Step] = []
        self._record: Record | None = None

    def read(self) -> Record:
        """All that the file says by now. Raises `IntegrityError` where it is damaged."""
        with files.open_regular(self.path, REMEDY, files.MOST_BYTES) as file:
            try:
                status = os.fstat(file.fileno())
                identity = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
                if identity != self._identity:
                    if not self._has_grown(file, identity):
                        self._forget()
                    file.seek(self.end)
                    self._read_on(file.read())
                    self._identity = identity
            except OSError as error:
                raise IntegrityError(f"{self.path} cannot be read ({error.strerror}).", REMEDY) from error
        if self._record is None:
            corrections = Corrections(dict(sorted(self._labels.items())), frozenset(self._excluded))
            self._record = Record(corrections, frozenset(self._looked_at), tuple(self._history))
        return self._record

    def _has_grown(self, file: io.BufferedReader, identity: tuple[int, ...]) -> bool:
        """Whether the file is the one that was read, with more behind it."""
        if identity[:2] != self._identity[:2] or identity[2] <= self._identity[2]:
            return False
        file.seek(self.end - len(self._tail))
        return file.read(len(self._tail)) == self._tail

    def _read_on(self, content: bytes) -> None:
        whole = content[: content.rfind(b"\n") + 1]
        for line in io.BytesIO(whole):
            where = f"{self.path}, line {self._lines + 1},"
            value = files.parse_json(line, where, REMEDY)
            try:
                self._take(value)
            except (ConfigError, ValueError) as error:
                raise _not_corrections(where, error) from None
            self._lines += 1
            self.end += len(line)
            self.first = self.first or self.end
        if not self._lines:
            raise IntegrityError(f"{self.path} is damaged: it has no first line.", REMEDY)
        self._tail = (self._tail + whole)[-TAIL:]

    def _take(self, value: Any) -> None:
        """One line. Raises `ValueError` for what is none."""
        self._record = None
        if not self._lines:
            record = _record_of(value)
            self._labels, self._excluded = dict(record.corrections.labels), set(record.corrections.excluded)
            self._looked_at, self._history = set(record.looked_at), list(record.history)
            return
        kind, step = _line_of(value)
        if kind == UNDONE:
            if not self._history:
                raise ValueError("a step is taken back where there is none")
            step = self._history.pop()
            self._decide((index, was) for index, was, _ in step.decided)
            self._looked_at -= {*step.looked_at}
            return
        self._decide((index, now) for index, _, now in step.decided)
        self._looked_at |= {*step.looked_at}
        if kind != PASSED:
            self._history.append(step)

    def _decide(self, decisions: Iterable[tuple[int, Decision]]) -> None:
        for index, what in decisions:
            self._labels.pop(index, None)
            self._excluded.discard(index)
            if isinstance(what, int):
                self._labels[index] = what
            elif what == EXCLUDED:
                self._excluded.add(index)


_known: OrderedDict[Path, _Journal] = OrderedDict()  # the one asked for last at the end

_mutex = threading.Lock()  # of `_known` and all that is in it


def read(folder: Path) -> Record | None:
    """What is written in a run's folder; None where nothing is. Raises `IntegrityError` where it is damaged."""
    if os.path.lexists(folder / NAME):
        return _read(folder / NAME)[0]
    path = folder / BEFORE
    if not os.path.lexists(path):
        return None
    value = files.read_json(path, REMEDY)
    try:
        return _record_of(value)
    except (ConfigError, ValueError) as error:
        raise _not_corrections(path, error) from None


def _read(path: Path) -> tuple[Record, int, int]:
    """What the file says, and how many bytes its first line and all of its lines have."""
    with _mutex:
        journal = _known.pop(path, None) or _Journal(path)
        record = journal.read()
        _known[path] = journal  # one that could not be read is not kept
        if len(_known) > KNOWN:
            _known.popitem(last=False)
        return record, journal.first, journal.end


def _not_corrections(where: object, error: Exception) -> IntegrityError:
    said = error.what if isinstance(error, ConfigError) else str(error)
    return IntegrityError(f"{where} does not hold corrections of a run: {said}.", REMEDY)


def add(folder: Path, before: Record, step: Step) -> None:
    """Writes a step behind all that was `before`; for who holds the lock, as those below. Raises `ConfigError` for what
    would not be read again."""
    _add(folder, before, step.to_json())


def add_passed(folder: Path, before: Record, items: Iterable[str]) -> None:
    """Writes what was looked at without a decision."""
    _add(folder, before, {PASSED: list(items)})


def take_back(folder: Path, before: Record) -> None:
    """Writes that the last step is taken back."""
    _add(folder, before, {UNDONE: True})


def _add(folder: Path, before: Record, line: dict[str, Any]) -> None:
    content = _encoded(line)
    try:
        _line_of(line)
    except ValueError as error:
        raise ConfigError(f"The corrections in {folder} cannot be written: {error}.", "Decide otherwise.") from None
    path = folder / NAME
    if not os.path.lexists(path):
        begin(folder, before)
    _, first, end = _read(path)
    if end - first > BEGUN_AGAIN:
        begin(folder, before)
        _, _, end = _read(path)
    if end + len(content) > files.MOST_BYTES:
        raise ConfigError(f"{path} would have more than {files.MOST_BYTES:,} bytes.", "Decide on fewer images at once.")
    files.append(path, content, end)


def begin(folder: Path, record: Record) -> None:
    """Writes the file anew, as one line, with the last steps of the history."""
    numbers = sorted(int(item) for item in record.looked_at if not item.startswith("file:"))
    names = sorted(item for item in record.looked_at if item.startswith("file:"))
    content = {
        "labels": {str(i): label for i, label in sorted(record.corrections.labels.items())},
        "excluded": sorted(record.corrections.excluded),
        "looked_at": [*map(str, numbers), *names],
        "history": [step.to_json() for step in _last(record.history)],
    }
    files.replace(folder / NAME, _encoded(content))
    with files.disk_errors(folder / BEFORE):
        (folder / BEFORE).unlink(missing_ok=True)


def _last(history: tuple[Step, ...]) -> tuple[Step, ...]:
    """The last steps, as many as fit into half of what a file may grow by; the very last one in any case."""
    size = 0
    for count, step in enumerate(reversed(history)):
        size += len(_encoded(step.to_json()))
        if count and size > BEGUN_AGAIN // 2:
            return history[len(history) - count :]
    return history


def _encoded(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n"


# -- what a line may hold


def _record_of(value: Any) -> Record:
    """Raises `ValueError` that says what is wrong with the content of a first line."""
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
    return Record(corrections, frozenset(looked_at), tuple(map(_step_of, history)))


def _step_of(value: Any) -> Step:
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


def _line_of(value: Any) -> tuple[str, Step]:
    """What a line after the first is: `UNDONE`, `PASSED` with what was looked at, or "step"."""
    if value == {UNDONE: True}:
        return UNDONE, Step()
    if isinstance(value, dict) and value.keys() == {PASSED}:
        return PASSED, _step_of({"looked_at": value[PASSED]})
    return "step", _step_of(value)


def _is_index(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_index_text(name: Any) -> bool:
    return isinstance(name, str) and name.isascii() and name.isdecimal() and name == str(int(name[:18]))


def _is_item(name: Any) -> bool:
    return _is_index_text(name) or (isinstance(name, str) and name.startswith("file:") and len(name) <= LONGEST)


def _is_decision(value: Any) -> bool:
    return value is None or value == EXCLUDED or _is_index(value)
