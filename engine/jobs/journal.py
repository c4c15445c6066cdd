"""What a job tells of itself: events, phases and their meters, the manifest, files. All wait for a full disk.

A run's folder is told as the work goes on, so that any process, at any time, sees the same.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import torch

from engine import device as devices
from engine import files, space
from engine.errors import StorageError
from engine.runs.run import Run

REPORT_EVERY = 0.25, 5.0  # seconds between progress events: at first, and in a long run

RATE_OVER = 20.0  # seconds that the rate is taken over

METER_SHARE = 0.005  # of the time, at most, for looking at the meters

SMALL = 1 << 16  # bytes: more than a manifest or a sidecar takes

DOING = {
    "prepare": "while it was prepared",
    "train": "while training",
    "evaluate": "while the model was evaluated",
    "replay": "while replaying",
    "rebuild": "while training once more",
    "retrain": "while retraining",
    "gradients": "while gradients were measured",
    "features": "while features were computed",
    "map": "while a map was drawn",
    "digests": "while the images were looked at",
    "pairs": "while images were compared",
    "export": "while exporting",
}

OnEvent = Callable[[dict], None]


class Journal:
    """`on_event(event)` is told every event beside the log. `cancel` ends the waiting for space."""

    def __init__(self, run: Run, cancel: threading.Event, on_event: OnEvent | None = None):
        self.run, self.on_event = run, on_event
        self.disk_space = space.DiskSpace(run.path, cancel, self.event)
        self.meter_seconds = 0.0  # spent on looking at the meters
        self._traffic = files.io_counters.written, files.io_counters.read
        self._device, self._peak = torch.device("cpu"), None
        self.in_hand: Meter | None = None  # the meter that began, or reported, last

    def watch(self, device: torch.device) -> None:
        """Measures this device from now on."""
        self._device, self._peak = device, devices.Peak(device, reset=True)

    # -- events

    def event(self, kind: str, **fields) -> None:
        """Appends an event to the log. While the disk is full the log has a gap: events do not wait."""
        try:
            event = self.run.events_log.append(kind, **fields)
        except StorageError as error:
            if not error.passing:
                raise
            event = {"kind": kind, **fields}
        if self.on_event is not None:
            self.on_event(event)

    def note(self, text: str) -> None:
        self.event("note", text=text)

    def phase(self, name: str, steps: int = 0, done: int = 0) -> "Meter":
        """Begins a phase of `steps` steps, `done` of which were done before; its meter reports the others."""
        self.event("phase", phase=name, steps=steps, **({"done": done} if done else {}))
        self.in_hand = Meter(self, name, steps, done)
        return self.in_hand

    def stopped(self) -> str:
        """Where the work stops now, as the end of a sentence, in the direction in which progress is told: by the steps
        of the phase that are done. The log has that number too."""
        meter = self.in_hand
        if meter is None:
            return "before it began"
        doing = DOING.get(meter.phase, f"in the phase «{meter.phase}»")
        if not meter.steps:
            return doing
        meter.report(meter.done, last=True)
        return f"{doing}, after {meter.done:,} of {meter.steps:,} steps"

    def usage(self) -> dict:
        """Bytes by meter, as `engine.runs.events` lists them."""
        return {
            "disk_used": files.size_of(self.run.path),
            "disk_free": space.disk_free(self.run.root),
            "written": files.io_counters.written - self._traffic[0],
            "read": files.io_counters.read - self._traffic[1],
            **devices.usage(self._device),
        }

    # -- the folder

    def save(self, size: int, write: Callable[[], space.Written]) -> space.Written:
        """What `write()` returns (a file's SHA-256, or those of several by path), once `size` bytes are free."""
        return self.disk_space.write(size, write)

    def update(self, **fields) -> None:
        """Changes fields of the manifest."""
        self.disk_space.write(SMALL, lambda: self.run.update_manifest(**fields))

    def add_files(self, checksums: dict[str, str]) -> None:
        """Records files in the manifest, by their path inside the run, with their SHA-256."""
        self.disk_space.write(SMALL, lambda: self.run.add_files(checksums))

    def timing(self, name: str, seconds: float, **others: float) -> None:
        """Seconds add up over resumed sessions; the peak of memory is the highest of them."""
        manifest = self.run.manifest()
        timings, peak = dict(manifest.timings), dict(manifest.peak_bytes)
        for key, value in {name: seconds, **others}.items():
            timings[key] = round(timings.get(key, 0.0) + value, 3)
        for key, value in self._peak.bytes().items() if self._peak is not None else ():
            peak[key] = max(peak.get(key, 0), value)
        self.update(timings=timings, peak_bytes=peak)


class Quiet(Journal):
    """Of a process that does a part of a job and does not hold the run: nothing goes into its log or its manifest.
    `hear(event)` is told what there is to say."""

    def __init__(self, run: Run, cancel: threading.Event, hear: OnEvent):
        super().__init__(run, cancel)
        self._hear = hear

    def event(self, kind: str, **fields) -> None:
        self._hear({"kind": kind, **fields})

    def update(self, **fields) -> None:
        pass

    def add_files(self, checksums: dict[str, str]) -> None:
        pass

    def timing(self, name: str, seconds: float, **others: float) -> None:
        pass


class Meter:
    """Progress events of one phase, and one at its end: few enough that looking at the meters
    takes at most `METER_SHARE` of the time."""

    def __init__(self, journal: Journal, phase: str, steps: int, start: int = 0):
        self.journal, self.phase, self.steps, self._losses, self._rates = journal, phase, steps, [], []
        self.done = start  # steps, as of the last report
        self._began = self._reported = time.monotonic()
        self._cost = 0.0  # seconds that the last look took
        self._marks = deque([(self._began, start)])  # (time, steps done), over the last RATE_OVER

    def report(self, done: int, losses: Sequence[float] = (), rates: Sequence[float] = (), last: bool = False) -> None:
        """`done` steps of the phase; the losses and learning rates of those since the last call, in training. `last`
        where the work stops here, and the log shall say so."""
        self.done, self.journal.in_hand = done, self
        self._losses += losses
        self._rates += rates
        now = time.monotonic()
        least, most = REPORT_EVERY
        pause = max(min(max((now - self._began) / 400, least), most), self._cost / METER_SHARE)
        if not last and done < self.steps and now - self._reported < pause:
            return
        self._reported = now
        self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[1][0] > RATE_OVER:
            self._marks.popleft()
        then, before = self._marks[0]
        curves = {}
        if self._losses:
            curves = {
                "losses": [float(f"{v:.6g}") for v in self._losses],
                "rates": [float(f"{v:.6g}") for v in self._rates],
            }
            self._losses, self._rates = [], []
        self.journal.event(
            "progress",
            phase=self.phase,
            step=done,
            steps=self.steps,
            rate=round((done - before) / max(now - then, 1e-9), 4),
            **self.journal.usage(),
            **curves,
        )
        self._cost = time.monotonic() - now
        self.journal.meter_seconds += self._cost
