"""The app's way to several GPUs: its worker thread starts torchrun, and waits for it. No torch.

    python -m torch.distributed.run --standalone --nproc-per-node=N -m engine resume RUN --only JOB

A list of words, no shell. The lock that the worker holds on the run goes down to the ranks as standard input
(`ranks.held`), so that the run is held until the last of these processes has ended. What they do is told by the run's
events, as ever. A cancel reaches them as SIGINT and the server's end as SIGTERM, which torchrun passes on; ranks whose
server was killed look for it, and end as after a kill.

`REPLAY_RANKS` is how many: of GPUs all that there are where it is not set, one process where it is 1, and processes on
the CPU where there is no GPU.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO

import psutil

from engine.errors import CancelledError, ConfigError, RankError
from engine.jobs.cancel import process_ends
from engine.jobs.job import Job
from engine.jobs.registry import records, unfinished
from engine.jobs.replay import Replay
from engine.jobs.train import TrainAndReplay
from engine.jobs.validation import Validate
from engine.runs.manifest import IN_PROGRESS
from engine.runs.run import Run

SETTING, SERVER = "REPLAY_RANKS", "REPLAY_SERVER"

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

LOOK = 0.2  # seconds between looks at whether torchrun has ended, or shall

PATIENCE = 45.0  # seconds in which torchrun ends all ranks once it is told to: it kills them after 30

TAIL = 4000  # characters of what ranks printed that go into the run's log.txt where they failed


def wanted() -> int | None:
    """What `REPLAY_RANKS` says; None where it says nothing. Raises `ConfigError` where it is no number from 1 on."""
    text = os.environ.get(SETTING, "").strip()
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1024:
        raise ConfigError(
            f"{SETTING}={text} is no number of GPUs from 1 to 1024.", "Change it, or leave it out for all."
        )
    return int(text)


def ranks_for(run: Run, job: Job | None) -> int:
    """How many processes shall do a job, or all that is unfinished: 1 is this one."""
    import torch

    jobs = unfinished(run) if job is None else (job,)
    most = max(map(_items, jobs), default=1)
    gpus = 0 if run.manifest().config.device == "cpu" else torch.cuda.device_count()
    number = wanted() or max(1, gpus)
    return max(1, min(number, most, gpus or number))


def _items(job: Job) -> int:
    """What can be shared out of a job."""
    if isinstance(job, Replay | TrainAndReplay):
        return len(job.targets)
    return job.subsets * len(job.drops) if isinstance(job, Validate) else 1


def launch(run: Run, job: Job | None, cancel: threading.Event, lock: int, ranks: int) -> None:
    """Does a job, or all that is unfinished, by so many ranks, and returns once all have ended. `lock` is the handle
    that holds the run. Raises `RankError`, of which the run has been told, where they failed."""
    words = ["resume", run.id, "--outputs", str(run.root)]
    if job is not None:
        words += ["--only", str(records(run.manifest()).index(job.record()))]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, *launcher, "-m", "engine", *words],
            stdin=lock,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,  # Ctrl-C in the server's terminal is the server's
        )
        try:
            code = _wait(process, cancel)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        _judge(run, code, cancel, output)


def _environment() -> dict[str, str]:
    """The server's, with what decides bits and what the ranks look at."""
    import torch

    package = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    threads = os.environ.get("OMP_NUM_THREADS") or str(torch.get_num_threads())
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": threads, SERVER: this_process()}


def launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return all(name in os.environ for name in TORCHRUN) and int(os.environ["WORLD_SIZE"]) > 1


def this_process() -> str:
    """Names this process for as long as the machine runs: numbers come again."""
    return f"{os.getpid()} {psutil.Process().create_time()}"


def server_is_gone() -> bool:
    """Whether the server that started these ranks has ended; False where none did."""
    named = os.environ.get(SERVER, "").split()
    if len(named) != 2:
        return False
    try:
        return str(psutil.Process(int(named[0])).create_time()) != named[1]
    except (psutil.NoSuchProcess, ValueError):
        return True


def _wait(process: subprocess.Popen, cancel: threading.Event) -> int:
    """The exit code. A cancel, or the end of this process, is passed on."""
    while process.poll() is None:
        if cancel.wait(LOOK) or process_ends():
            ends = getattr(cancel, "interrupted", False) or process_ends()
            process.send_signal(signal.SIGTERM if ends else signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            break
    return process.poll() or 0


def _judge(run: Run, code: int, cancel: threading.Event, output: IO[str]) -> None:
    """Rank 0 has told the run how it ended, if it could; where it could not, this does."""
    from engine.jobs.execute import record_failure

    record = run.manifest()
    if record.status_said not in IN_PROGRESS:
        if code and not cancel.is_set():
            raise RankError(f"The ranks of run {run.id} ended with exit code {code}.", "The run's log has the reason.")
        return
    if cancel.is_set() or process_ends():
        record_failure(run, CancelledError("Cancelled.", "What was trained and scored before is kept."), cancel, None)
        return
    output.seek(0)
    printed = output.read()[-TAIL:]
    error = RankError(
        f"The ranks of run {run.id} ended with exit code {code} before they could say why.",
        "The end of what they printed is in the run's log.txt. What was finished is kept: resume the run to go on.",
    )
    error.add_note(printed)
    record_failure(run, error, cancel, None)
    raise error
