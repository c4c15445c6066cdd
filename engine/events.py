"""The run's own log: `events.jsonl`, append-only, one JSON object a line.

Everything that a page shows of a run in progress is read from here, by any process, at any
time. Each line has `time` (seconds since 1970) and `kind`:

    queued, started, finished, cancelled, cleaned, note
    phase      `phase` ("prepare", "train", "evaluate", "replay") and its `steps`
    failed     `what` and `remedy`
    progress   as below

`progress` has

    phase      "train" or "replay"
    step       steps of this phase done; `steps` is how many there are
    losses     train: mean batch loss of each step since the last progress line
    rates      train: learning rate of each of them
    rate       steps per second, over the last seconds
    rss, ram_total, ram_available, gpu, gpu_total, disk_free, disk_used    bytes
"""

import json
import time
from pathlib import Path

from engine.files import disk_errors

NEEDED = {"progress": {"kind", "time", "phase", "step", "steps"}, "phase": {"kind", "time", "phase", "steps"}}
TERMINAL = ("finished", "failed", "cancelled")


class EventLog:
    def __init__(self, path: Path):
        self.path = path

    def append(self, kind: str, **fields) -> dict:
        event = {"time": round(time.time(), 3), "kind": kind, **fields}
        line = json.dumps(event, ensure_ascii=False).encode() + b"\n"
        with disk_errors(self.path), self.path.open("ab+") as file:
            if file.tell():
                file.seek(-1, 2)
                if file.read(1) != b"\n":      # a process was killed in the middle of a line
                    line = b"\n" + line
            file.write(line)
        return event

    def read(self, offset: int = 0) -> tuple[list[dict], int]:
        """Events of the whole lines from byte `offset` on, and the offset to go on from."""
        if not self.path.exists():
            return [], 0
        with self.path.open("rb") as file:
            file.seek(offset)
            content = file.read()
        whole = content.rfind(b"\n") + 1
        return [_parse(line) for line in content[:whole].splitlines() if line], offset + whole


def _parse(line: bytes) -> dict:
    try:
        event = json.loads(line)
        if isinstance(event, dict) and event.keys() >= NEEDED.get(event.get("kind"), {"kind", "time"}):
            return event
    except (ValueError, TypeError):
        pass
    return {"kind": "unreadable", "time": None, "text": line.decode("utf-8", "replace")[:200]}

