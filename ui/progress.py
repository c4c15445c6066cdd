"""How far a run is, as its own events tell it; a session reads each event once."""

from dataclasses import dataclass, field

import streamlit as st

from engine.runs.progress import Progress, follow
from engine.runs.run import Run

HEAD = 48  # bytes of a log that tell it from one that was begun later


@dataclass
class _Reading:
    """How far a session has read one log."""

    run: Run  # asks its manifest once whose log this is
    head: bytes
    offset: int = 0
    progress: Progress = field(default_factory=Progress)
    log: list[dict] = field(default_factory=list)  # less the progress lines, its own and its ranks'


def of(run: Run) -> Progress:
    """The run's progress so far. Raises `IntegrityError` where its log cannot be read."""
    return _read(run).progress


def log(run: Run) -> list[dict]:
    """The events that are no progress lines, as far as `of` has read."""
    return _readings()[run.id].log


def _readings() -> dict[str, _Reading]:
    return st.session_state.setdefault("readings", {})


def _read(run: Run) -> _Reading:
    reading = _readings().get(run.id)
    run = run if reading is None else reading.run
    head = run.events_log.head(HEAD)
    # A log that was deleted begins anew; its first line has another time then.
    if reading is None or reading.head != head:
        reading = _Reading(run, head)
    events, reading.offset = run.events(reading.offset)
    reading.progress = follow(reading.progress, events)
    reading.log += [event for event in events if event["kind"] not in ("progress", "ranks")]
    _readings()[run.id] = reading
    return reading
