"""How long a run takes on this machine, said before it is started: a few of its steps are measured once, and kept.

    from engine.jobs import speed

    speed.known(outputs, config)                   # seconds of training and replay, or None: nothing was measured here
    JobQueue.of(outputs).calibrate(config)         # at once: the worker measures when it has nothing else to do

What is measured is the estimate's (`engine.jobs.estimate`), some seconds of computing. A job that comes meanwhile is
not kept waiting: the measurement is given up within a step, and the next one who asks begins it anew. It is kept as
outputs/.speed/<digest>.json, where the digest covers what a run's time depends on: the configuration, the program's
version, the host, and the cores and threads that compute. No torch until it measures.

When not: beside other work. The times are then too long, and stay so until the file is deleted.
"""

import math
import os
import socket
import threading
from pathlib import Path

import engine
from engine import files
from engine.config import RunConfig
from engine.errors import CancelledError, ReplayError
from engine.jobs.cancel import process_ends

FOLDER = ".speed"  # of the outputs folder

_REMEDY = "Delete it: it is measured again."


def known(root: Path, config: RunConfig) -> float | None:
    """Seconds that a run of this configuration takes here, from its first step to its last score."""
    path = _path(root, config)
    if not path.is_file():
        return None
    try:
        seconds = files.read_json(path, _REMEDY)["seconds"]
    except (ReplayError, KeyError, TypeError):  # damaged: as if it had not been measured
        return None
    return float(seconds) if isinstance(seconds, int | float) and math.isfinite(seconds) and seconds > 0 else None


def measure(root: Path, config: RunConfig, cancel: threading.Event | None = None) -> float:
    """Measures, and keeps what was found. Raises `CancelledError` once `cancel` is set, and what `estimate` raises."""
    from engine.jobs.estimate import estimate

    cancel = cancel or threading.Event()

    def look() -> None:
        if cancel.is_set() or process_ends():
            raise CancelledError("The measurement was given up.", "It begins anew when somebody asks.")

    seconds = estimate(config, root, measure=True, look=look).modes[config.replay_mode].seconds
    assert seconds is not None, "it was measured"
    files.make_folder(root / FOLDER)
    files.write_json(_path(root, config), {"seconds": seconds, "preset": config.preset, "version": engine.__version__})
    return seconds


def _path(root: Path, config: RunConfig) -> Path:
    here = [engine.__version__, socket.gethostname(), _cores(), os.environ.get("OMP_NUM_THREADS", "")]
    return root / FOLDER / f"{files.json_digest([config.to_dict(), here])[:32]}.json"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
