"""How long a run takes on this machine, said before it is started: a few of its steps are measured once, and kept.

    from engine.jobs import speed

    speed.known(outputs, config)                   # seconds of training and replay, or None: nothing was measured here
    JobQueue.of(outputs).calibrate(config)         # at once: the worker measures when it has nothing else to do

What is measured is the estimate's (`engine.jobs.estimate`), some seconds of computing, in a process of its own, whose
memory goes with it. A job that comes meanwhile is not kept waiting: the process is ended, and the next one who asks
begins anew. It is kept as outputs/.speed/<digest>.json, where the digest covers what a run's time depends on: the
configuration, the program's version, the host, and the cores and threads that compute. No torch here.

When not: beside other work. The times are then too long, and stay so until the file is deleted.
"""

import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import engine
from engine import files
from engine.config import RunConfig, from_dict
from engine.errors import CancelledError, ConfigError, ReplayError
from engine.jobs.cancel import process_ends

FOLDER = ".speed"  # of the outputs folder

CALL = [sys.executable, "-m", "engine.jobs.speed"]  # with the outputs folder, and the configuration as standard input

A_LOOK = 0.1  # seconds between looks at whether the process has ended, or shall

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
    """Measures, and keeps what was found. Raises `CancelledError` once `cancel` is set, and `ConfigError` where it
    cannot be measured."""
    cancel, package = cancel or threading.Event(), str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryFile("w+") as words:
        words.write(json.dumps(config.to_dict()))
        words.seek(0)
        process = subprocess.Popen(
            [*CALL, str(root)],
            stdin=words,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )
        try:
            while process.poll() is None and not (cancel.wait(A_LOOK) or process_ends()):
                pass
        finally:
            ended = process.poll() is not None
            process.kill()
            process.wait()
    if not ended:
        raise CancelledError("The measurement was given up.", "It begins anew when somebody asks.")
    seconds = known(root, config)
    if seconds is None:
        raise ConfigError(
            "The time of a run could not be measured.",
            f"`python -m engine estimate --preset {config.preset}` says why.",
        )
    return seconds


def _measure_here(root: Path, config: RunConfig) -> None:
    from engine.jobs.estimate import estimate

    seconds = estimate(config, root, measure=True).modes[config.replay_mode].seconds
    files.make_folder(root / FOLDER)
    files.write_json(_path(root, config), {"seconds": seconds, "preset": config.preset, "version": engine.__version__})


def _path(root: Path, config: RunConfig) -> Path:
    here = [engine.__version__, socket.gethostname(), _cores(), os.environ.get("OMP_NUM_THREADS", "")]
    return root / FOLDER / f"{files.json_digest([config.to_dict(), here])[:32]}.json"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    _measure_here(Path(sys.argv[1]), from_dict(json.load(sys.stdin)))
