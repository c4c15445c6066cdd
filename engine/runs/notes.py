"""What a person says of a run: training images ticked, notes on images and on the run. No torch.

`outputs/<run_id>/notes.json`, apart from what was computed: people change it at any time, also while a
job works on the run, so it needs no lock of the run and stands under no checksum. A lock of its own
(`.notes.lock`) keeps what two tabs, or two processes, write at once.
"""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine import files
from engine.errors import ConfigError, IntegrityError
from engine.runs.lock import FileLock
from engine.runs.run import Run

LONGEST = 10_000  # characters of a note

RUN = "run"  # the name of the note on the run as a whole

REMEDY = "Correct it, or delete the file: the run's results do not depend on it."

PATIENCE = 10.0  # seconds for which others may be writing notes of the same run


@dataclass(frozen=True)
class Notes:
    """`ticked` are training indices in order; `notes` a text by `RUN` or training index."""

    ticked: tuple[int, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)

    def of(self, what: int | str) -> str:
        return self.notes.get(str(what), "")


def read(run: Run, images: int | None = None) -> Notes:
    """Raises `IntegrityError` where the file is no notes of a run, or (with `images`, how many training images there
    are) speaks of one that is not there."""
    path = run.path / "notes.json"
    if not os.path.lexists(path):
        return Notes()
    value = files.read_json(path, REMEDY)
    problem = _problem(value, images)
    if problem:
        raise IntegrityError(f"{path} does not hold notes of a run: {problem}.", REMEDY)
    return Notes(tuple(sorted(set(value["ticked"]))), value["notes"])


def _problem(value: Any, images: int | None) -> str:
    """What is wrong with the content of a file of notes; "" where nothing is."""
    if not isinstance(value, dict) or value.keys() != {"ticked", "notes"}:
        return "it is not one object with ticked and notes"
    ticked, notes = value["ticked"], value["notes"]
    if not isinstance(ticked, list) or not all(type(index) is int and index >= 0 for index in ticked):
        return "the ticked images are not whole numbers"
    if not isinstance(notes, dict) or not all(isinstance(text, str) for text in notes.values()):
        return "the notes are not texts"
    if any(len(text) > LONGEST for text in notes.values()):
        return f"a note has more than {LONGEST:,} characters"
    indices = [name for name in notes if name != RUN]
    if not all(name.isascii() and name.isdecimal() and name == str(int(name[:18])) for name in indices):
        return "a note is on no training image"
    largest = max([*ticked, *map(int, indices)], default=-1)
    if images is not None and largest >= images:
        return f"there is no training image {largest}; they are numbered from 0 to {images - 1}"
    return ""


def tick(run: Run, changes: dict[int, bool], images: int) -> None:
    """Ticks (True) and unticks training images, each an index below `images`."""
    _check_index(changes, images)
    with _lock(run):
        old = read(run)
        ticked = set(old.ticked) - changes.keys() | {i for i, on in changes.items() if on}
        _write(run, dataclasses.replace(old, ticked=tuple(sorted(ticked))))


def write_note(run: Run, what: int | str, text: str, images: int | None = None) -> None:
    """The note on a training image (an index below `images`), or on the whole run (`RUN`); an empty text deletes it."""
    if what != RUN:
        _check_index([int(what)], images)
    text = text.strip()
    if len(text) > LONGEST:
        raise ConfigError(f"The note has {len(text):,} characters.", f"Shorten it to {LONGEST:,}.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            "The note has half of a character in it (a lone surrogate), which no file can hold.", "Type it again."
        ) from None
    with _lock(run):
        old = read(run)
        notes = {name: each for name, each in old.notes.items() if name != str(what)}
        _write(run, dataclasses.replace(old, notes=notes | ({str(what): text} if text else {})))


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
    content = {"ticked": list(notes.ticked), "notes": dict(notes.notes)}
    if problem := _problem(content, None):  # what would not be read again is not written
        raise ConfigError(f"The notes of run {run.id} cannot be written: {problem}.", "Shorten them.")
    files.write_json(run.path / "notes.json", content)
