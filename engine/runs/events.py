"""The run's own log: `events.jsonl`, append-only, one JSON object a line.

Everything that a page shows of a run in progress is read from here, by any process, at any
time. Each line has `time` (seconds since 1970) and `kind`:

    queued     `job`, the kind of job; `asked_on`, the page where it was asked for, and `asked_about`, the key of the
               target that was looked at there
    started    `job` and its `fields`, as its record has them; `host` and `pid` of the process; `phases`, what it will
               go through: of each `phase` its `cost`, in training steps; `step_seconds`, what one took before (null:
               not known)
    done       that job is: its `job` and `fields`, and by name the `scores` and `reports` that it left
    finished, cancelled, cleaned, continued, note
    phase      `phase` ("prepare", "compile", "train", "evaluate", "replay", "rebuild", "retrain", "gradients",
               "features", "map", "digests", "pairs", "export"), its `steps`, and `done`, how many of them were done
               before the run was resumed
    failed     `what` and `remedy`
    paused     the disk is full: `needed` and `disk_free`, in bytes
    accuracy   of the training so far after `step` steps, at the end of an epoch: `accuracy`, from 0 to 1, on `images`
               test images
    ranks      several processes share the work: `ranks`, of each its `rank`, `host`, `pid`, `device`, `phase`, `step`,
               `steps`, and bytes `rss`, `gpu`, `gpu_total`
    progress   as below
    unreadable not in the file: stands for lines that are damaged, foreign or missing; `what` says it

`progress` has

    phase      "train", "replay", "rebuild", "retrain", "gradients", "features", "export" or "compile"
    step       steps of this phase (of gradients, features and exports: images) done; `steps` is how many there are
    losses     train: mean batch loss of each step since the last progress line
    rates      train: learning rate of each of them
    rate       steps per second, over the last seconds
    rss, ram_total, ram_available, gpu, gpu_total, disk_free, disk_used,
    written, read          bytes; the last two by this process since the work began

A line ends with `run`, the id of the run; `after`, the `crc` of the line before it ("" in the first, "?" where
that one was cut); and `crc`, the CRC-32 of the rest of the line, both in hexadecimal. So a line that was changed,
cut, doubled, moved or brought from another run is told from one that was written, and the others are read all the
same. Lines of versions before 0.2.0 have a `crc` alone.
"""

import io
import json
import os
import re
import threading
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine import files
from engine.errors import IntegrityError
from engine.runs.fields import LARGEST, Absent, check, finite, number, of, optional, text, whole

TERMINAL = ("finished", "failed", "cancelled")

LAST_MOMENT = 253402300799  # seconds since 1970: the end of the year 9999, the last that clocks show


def moment(value: Any) -> float:
    if not 0 <= number(value) <= LAST_MOMENT:
        raise ValueError(f"{value} is no moment")
    return value


LONGEST_LINE = 8 << 20  # bytes; the losses of 100,000 steps take a quarter of it

READ_AT_ONCE = files.MOST_BYTES  # bytes of a log that one `read` takes in; the next goes on

CUT_AFTER = 5.0  # seconds after which a line without an end is none that is being written

CRC_END = re.compile(rb'"crc": "([0-9a-f]{8})"}\n?\Z')

TAIL = 20  # bytes, more than `CRC_END` takes

METERS = ("rss", "ram_total", "ram_available", "gpu", "gpu_total", "disk_used", "disk_free", "written", "read")

# What readers rely on: the fields that a kind must have, and what fields hold wherever they are.
NEEDED = {
    "phase": ("phase", "steps"),
    "progress": ("phase", "step", "steps"),
    "paused": ("needed", "disk_free"),
    "ranks": ("ranks",),
    "accuracy": ("step", "accuracy", "images"),
    "done": ("job",),
}

RANK = {
    "rank": whole,
    **dict.fromkeys(("host", "device", "state", "phase"), Absent(text)),
    **dict.fromkeys(("pid", "step", "steps"), Absent(whole)),
    **dict.fromkeys(("rss", "gpu", "gpu_total"), Absent(number)),
}


def share(value: Any) -> float:
    if not 0 <= number(value) <= 1:
        raise ValueError(f"{value} is no share")
    return value


READERS = {
    **dict.fromkeys(
        ("phase", "text", "what", "remedy", "run", "after", "job", "asked_on", "asked_about", "host"), text
    ),
    **dict.fromkeys(("step", "steps", "done", "ahead", "images", "pid"), whole),
    **dict.fromkeys(("needed", "bytes"), number),
    **dict.fromkeys((*METERS, "rate", "step_seconds"), optional(number)),
    "phases": [{"phase": text, "cost": whole}],
    "accuracy": share,
    "fields": lambda value: of(dict, value),
    "scores": optional(text),
    "reports": [text],
    "time": moment,
    **dict.fromkeys(("losses", "rates"), [finite]),
    "parts": [text],
    "ranks": [RANK],
}

_mutex = threading.Lock()  # of reading the last line and writing the next: a job's threads both tell


class EventLog:
    """The log at `path` of the run `run_id`."""

    def __init__(self, path: Path, run_id: str = ""):
        self.path, self.run_id = path, run_id

    def append(self, kind: str, **fields: Any) -> dict:
        """Writes one event and returns it. Raises `StorageError` where it cannot be written."""
        event = {"time": round(time.time(), 3), "kind": kind, **fields}
        with _mutex, files.disk_errors(self.path):
            handle = files.open_to_append(self.path)
            try:
                end = os.fstat(handle).st_size
                tail = os.pread(handle, TAIL, max(0, end - TAIL))
                cut = end > 0 and not tail.endswith(b"\n")  # a process was killed in the middle of a line
                after = "" if end == 0 else "?" if cut else _crc_at_end(tail)
                body = json.dumps({**event, "run": self.run_id, "after": after}, ensure_ascii=False).encode()
                line = body[:-1] + b', "crc": "%08x"}\n' % zlib.crc32(body)
                _write_all(handle, b"\n" + line if cut else line)
            finally:
                os.close(handle)
        return event

    def head(self, size: int) -> bytes:
        """The first bytes, which tell this log from one that was begun later; none where there is no log."""
        file = self._open()
        if file is None:
            return b""
        with file:
            return file.read(size)

    def _open(self) -> io.BufferedReader | None:
        try:
            return files.open_regular(self.path, "Make it readable, or delete the logs in Runs and storage.")
        except IntegrityError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def read(self, offset: int = 0) -> tuple[list[dict], int]:
        """Events of the whole lines from byte `offset` on, and the offset to go on from.

        Damage is among them as events `unreadable`. Raises `IntegrityError` where there is no regular file, or
        it cannot be read; a log that is not there, or was cut below `offset`, is empty.
        """
        file = self._open()
        if file is None:
            return [], 0
        with file:
            status = os.fstat(file.fileno())
            if offset > status.st_size:
                return [_damage("The log was cut since it was read.")], status.st_size
            before = max(0, offset - TAIL)
            file.seek(before)
            tail = file.read(offset - before)
            content = file.read(READ_AT_ONCE)
        whole = content.rfind(b"\n") + 1
        events = _events(content[:whole].splitlines(), self.run_id, _crc_at_end(tail) if offset else "")
        rest = len(content) - whole
        # A time in the future is that of a clock which was wrong.
        if rest and (rest > LONGEST_LINE or abs(time.time() - status.st_mtime) > CUT_AFTER):
            events.append(_damage("The end of the log was cut, or is not a log."))
            return events, offset + len(content)
        return events, offset + whole


def _crc_at_end(tail: bytes) -> str:
    """Of the line that `tail` is the end of; "?" where that has none."""
    match = CRC_END.search(tail)
    return match[1].decode() if match else "?"


def _write_all(handle: int, line: bytes) -> None:
    while line:
        line = line[os.write(handle, line) :]


def _damage(what: str, text: str = "") -> dict:
    return {"kind": "unreadable", "time": None, "what": what, "text": text}


def _events(lines: Iterable[bytes], run_id: str, after: str) -> list[dict]:
    """What the lines say, in their order; `after` is the checksum of the line before them. What does not belong
    there is left out, and said once for all that follow each other."""
    events: list[dict] = []
    seen: set[str] = {after} - {"", "?"}

    def damaged(what: str, line: bytes = b"") -> None:
        if not events or events[-1].get("what") != what:
            events.append(_damage(what, line[:200].decode("utf-8", "replace")))

    for line in lines:
        if not line:
            continue
        event, crc = _parse(line), _crc_at_end(line)
        if event is None:
            damaged("A line of the log was changed, or cut when its process was killed.", line)
            after = "?"
            continue
        chained = "after" in event
        if chained and event["run"] != run_id:
            damaged(f"Lines of the log are of another run, {event['run'][:64]}.", line)
            continue
        if crc in seen:
            damaged("Lines of the log stand there twice.", line)
            continue
        if chained and after != "?" and event["after"] not in (after, "?"):
            damaged("Lines of the log are missing here, or stand in another order.")
        events.append({name: value for name, value in event.items() if name not in ("run", "after")})
        seen.add(crc)
        after = crc
    return events


def _parse(line: bytes) -> dict | None:
    """The event of a line; None where the line is not what was written, or no event."""
    body, _, crc = line.rpartition(b', "crc": "')
    if len(line) > LONGEST_LINE or crc != b'%08x"}' % zlib.crc32(body + b"}"):
        return None
    try:
        event = files.parse_json(body + b"}", "the line", "")
    except IntegrityError:
        return None
    return event if isinstance(event, dict) and _is_event(event) else None


def _is_event(event: dict) -> bool:
    """Whether the fields are there, and of the types, that readers rely on."""
    if not isinstance(event.get("kind"), str) or ("after" in event) != ("run" in event):
        return False
    if not {"time", *NEEDED.get(event["kind"], ())} <= event.keys():
        return False
    try:
        check(event, {name: READERS[name] for name in event.keys() & READERS.keys()})
    except (TypeError, ValueError, KeyError):
        return False
    return event.get("step", 0) <= event.get("steps", LARGEST) and event.get("done", 0) <= event.get("steps", LARGEST)
