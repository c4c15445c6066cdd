"""The run's own log: `events.jsonl`, append-only, one JSON object a line.

Everything that a page shows of a run in progress is read from here, by any process, at any
time. Each line has `time` (seconds since 1970), `kind`, and `crc`, the CRC-32 of the rest of the
line in hexadecimal, so that a line that was changed or cut is told from one that was written:

    queued, started, finished, cancelled, cleaned, continued, note
    phase      `phase` ("prepare", "train", "evaluate", "replay", "rebuild"), its `steps`, and
               `done`, how many of them were done before the run was resumed
    failed     `what` and `remedy`
    paused     the disk is full: `needed` and `disk_free`, in bytes
    progress   as below

`progress` has

    phase      "train", "replay" or "rebuild"
    step       steps of this phase done; `steps` is how many there are
    losses     train: mean batch loss of each step since the last progress line
    rates      train: learning rate of each of them
    rate       steps per second, over the last seconds
    rss, ram_total, ram_available, gpu, gpu_total, disk_free, disk_used,
    written, read          bytes; the last two by this process since the work began
"""

import json
import time
import zlib
from pathlib import Path

from engine.files import disk_errors

TERMINAL = ("finished", "failed", "cancelled")


class EventLog:
    def __init__(self, path: Path, run_id: str = ""):
        self.path, self.run_id = path, run_id

    def append(self, kind: str, **fields) -> dict:
        event = {"time": round(time.time(), 3), "kind": kind, **fields}
        body = json.dumps(event, ensure_ascii=False).encode()
        line = body[:-1] + b', "crc": "%08x"}\n' % zlib.crc32(body)
        with disk_errors(self.path), self.path.open("ab+") as file:
            if file.tell():
                file.seek(-1, 2)
                if file.read(1) != b"\n":  # a process was killed in the middle of a line
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
    body, _, crc = line.rpartition(b', "crc": "')
    if crc == b'%08x"}' % zlib.crc32(body + b"}"):
        return json.loads(body + b"}")
    return {"kind": "unreadable", "time": None, "text": line.decode("utf-8", "replace")[:200]}
