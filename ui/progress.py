"""How far a run is, as its own events tell it; a session reads each event once."""

import contextlib
from dataclasses import dataclass, field

import streamlit as st

from engine.errors import IntegrityError
from engine.runs.progress import Progress, follow
from engine.runs.run import Run

HEAD = 48  # bytes of a log that tell it from one that was begun later


@dataclass
class _Reading:
    """How far a session has read one log."""

    head: bytes
    offset: int = 0
    progress: Progress = field(default_factory=Progress)
    log: list[dict] = field(default_factory=list)  # less the progress lines


def of(run: Run) -> Progress:
    """The run's progress so far. Raises `IntegrityError` where its log cannot be read."""
    return _read(run).progress


def log(run: Run) -> list[dict]:
    """The events that are no progress lines, as far as `of` has read."""
    return _readings()[run.id].log


def _readings() -> dict[str, _Reading]:
    return st.session_state.setdefault("readings", {})


def _read(run: Run) -> _Reading:
    path, head = run.path / "events.jsonl", b""
    remedy = "Make it readable, or delete the logs in Runs and storage."
    try:
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            head = file.read(HEAD)
        reading = _readings().get(run.id)
        # A log that was deleted begins anew; its first line has another time then.
        if reading is None or reading.head != head:
            reading = _Reading(head)
        events, reading.offset = run.events(reading.offset)
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read ({error.strerror}).", remedy) from error
    try:
        reading.progress = follow(reading.progress, events)
        reading.log += [event for event in events if event["kind"] != "progress"]
    except (TypeError, ValueError, KeyError, AttributeError) as error:  # a line that was made, not written
        raise IntegrityError(f"{path} is no log of a run ({type(error).__name__}: {error}).", remedy) from error
    _readings()[run.id] = reading
    return reading
