"""One worker thread with a queue: a page submits and returns at once.

The worker belongs to the process, not to a page, a tab or a cache: `JobQueue.of(root)` is the same queue for all of
them, and the queues of several folders share the worker. What happens to a job is told by its run's own events and
manifest alone, so a page that comes later, or another process, sees the same. A run's lock is held from submission
to the end: a server that dies leaves its runs «interrupted», queued ones too. No torch until the worker loads it.
"""

import atexit
import contextlib
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from engine import files
from engine.config import RunConfig, check, check_offered, read_questions
from engine.datasets import registry as dataset_registry
from engine.errors import CancelledError, ConfigError, ReplayError, StorageError
from engine.jobs import launch, speed
from engine.jobs.cancel import Cancel
from engine.jobs.job import Job
from engine.jobs.probe import Probing
from engine.jobs.registry import records, unfinished
from engine.loading import collector_at_rest
from engine.runs import run as runs
from engine.runs.job import JobRecord
from engine.runs.manifest import IN_PROGRESS, ErrorRecord
from engine.runs.run import Run

logger = logging.getLogger(__name__)

A_STEP = 60.0  # seconds that an ending process waits for the step in hand

BEHIND = 15  # niceness of jobs above that of pages: a thread of theirs gets 1/28 of a core that a page's thread wants


@dataclass(eq=False)
class _Held:
    """A run that is queued or worked on. `job` None: all that is unfinished."""

    run: Run
    lock: int
    job: Job | None
    cancel: Cancel = field(default_factory=Cancel)
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def root(self) -> Path:
        return self.run.root

    def work(self, execute: Callable) -> None:
        try:
            ranks = launch.ranks_for(self.run, self.job)
            if ranks > 1 and _is_recorded(self.run, self.job):  # what a full disk left unrecorded waits here for space
                launch.launch(self.run, self.job, self.cancel, self.lock, ranks)
            else:
                execute(self.run, self.job, self.cancel)
        except ReplayError as error:
            _tell_refusal(self.run, error)
            raise

    def fail(self, what: str) -> None:
        _fail(self.run, what, "Install the requirements again (torch first), and resume the run.")

    def release(self) -> None:
        os.close(self.lock)
        self.released.set()

    def __str__(self) -> str:
        return f"Run {self.run.id}"


@dataclass(eq=False)
class _HeldProbe:
    """A probe that is queued or worked on (`engine.jobs.probe`)."""

    probing: Probing

    @property
    def root(self) -> Path:
        return self.probing.root

    @property
    def cancel(self) -> Cancel:
        return self.probing.asked_to_stop

    def work(self, execute: Callable) -> None:
        self.probing.work()

    def fail(self, what: str) -> None:
        self.probing.fail(what)

    def release(self) -> None:
        if not self.probing.ends:
            self.probing.cancel()

    def __str__(self) -> str:
        return "The probe"


@dataclass(eq=False)
class _HeldCalibration:
    """A measurement of this machine that is queued or worked on (`engine.jobs.speed`). It gives way to everything else,
    and where it cannot be had the app says what it says where nothing is known."""

    root: Path
    config: RunConfig
    failed: set[RunConfig]
    cancel: Cancel = field(default_factory=Cancel)

    def work(self, execute: Callable) -> None:
        try:
            speed.measure(self.root, self.config, self.cancel)
        except CancelledError:
            pass  # who asks next begins it anew
        except BaseException:
            self.failed.add(self.config)
            raise

    def fail(self, what: str) -> None:
        self.failed.add(self.config)

    def release(self) -> None:
        pass

    def __str__(self) -> str:
        return "The measurement of this machine"


_Task = _Held | _HeldProbe | _HeldCalibration


class _Worker:
    """The process's one thread that computes."""

    def __init__(self):
        self.loaded = threading.Event()  # torch is there, and jobs begin at once
        self.failure = ""  # why torch could not be loaded, where it could not
        self._changed = threading.Condition()
        self._waiting: deque[_Task] = deque()
        self._current: _Task | None = None
        self._thread: threading.Thread | None = None
        self._ends = False

    def start(self) -> None:
        with self._changed:
            self._ends = False
            if self._thread is not None and self._thread.is_alive():
                return
            self._thread = threading.Thread(target=self._work, name="replay-engine", daemon=True)
            self._thread.start()

    def held(self, root: Path) -> list[_Held]:
        """Runs: the one being worked on first, then those that wait, in their order."""
        return [held for held in self._every(root) if isinstance(held, _Held)]

    def probes(self, root: Path) -> list[Probing]:
        """Likewise."""
        return [held.probing for held in self._every(root) if isinstance(held, _HeldProbe)]

    def calibrations(self, root: Path) -> list[RunConfig]:
        """What is measured, or will be."""
        return [held.config for held in self._every(root) if isinstance(held, _HeldCalibration)]

    def _every(self, root: Path) -> list[_Task]:
        with self._changed:
            every = [self._current, *self._waiting] if self._current else list(self._waiting)
            return [held for held in every if held.root == root]

    def add(self, held: _Task) -> None:
        with self._changed:
            for other in (self._current, *self._waiting):
                if isinstance(other, _HeldCalibration):
                    other.cancel.set()
            self._waiting.append(held)
            self._changed.notify_all()
        self.start()

    def take_back(self, held: _Held) -> bool:
        """Off the queue, so that the caller has it; False where the worker has it already."""
        with self._changed:
            if held not in self._waiting:
                return False
            self._waiting.remove(held)
            return True

    def stop(self) -> None:
        """Interrupts everything and waits until the step in hand is done; the thread ends."""
        with self._changed:
            self._ends = True
            waiting, thread = list(self._waiting), self._thread
            self._waiting.clear()
            if self._current is not None:
                self._current.cancel.interrupt()
            self._changed.notify_all()
        for held in waiting:
            held.release()
        if thread is not None and thread is not threading.current_thread():
            thread.join(A_STEP)

    def _work(self) -> None:
        _yield_to_pages()
        execute = self._load()
        while (held := self._next()) is not None:
            execute = execute or self._load()
            try:
                if execute is None:
                    held.fail("The engine cannot be loaded: " + self.failure)
                else:
                    held.work(execute)
            except ReplayError:
                pass  # told by the run's events, and logged there
            except BaseException:  # the thread must outlive every job; the run's log has the rest
                logger.exception("%s failed.", held)
            finally:
                held.release()  # first: a run that this thread no longer has is free
                with self._changed:
                    self._current = None

    def _next(self) -> _Task | None:
        with self._changed:
            while not self._waiting and not self._ends:
                self._changed.wait()
            if self._ends:
                self._thread = None
                return None
            self._current = self._waiting.popleft()
            return self._current

    def _load(self):
        """`engine.jobs.execute.execute`, and with it torch, loaded here so that the first page need not wait; None,
        with the reason in `failure`, where that fails. It is tried again for each run."""
        try:
            with collector_at_rest():
                from engine.jobs.execute import execute
        except Exception as error:
            logger.exception("The engine cannot be loaded.")
            self.failure = f"{type(error).__name__}: {error}"
            return None
        self.failure = ""
        self.loaded.set()
        return execute


def _yield_to_pages() -> None:
    """Puts this thread, and all threads that it will start (torch's and those that write), behind the process's others:
    a page is drawn as if no job ran, and a job has what pages leave it, which is nearly all. How many threads compute
    stays as it was, for that decides the last bits of scores. On Linux, where priorities are of threads."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError):  # a system that does not allow it computes as well
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + BEHIND)


_worker = _Worker()

_queues: dict[Path, "JobQueue"] = {}

_queues_mutex = threading.Lock()

_probes_mutex = threading.Lock()  # of looking whether a probe or a measurement is in hand, and queueing it

# A server that handles signals returns from its main function; the interpreter then ends with the worker in the
# middle of a step. Here the worker ends first, within a step, and the run can be resumed.
atexit.register(_worker.stop)


def _tell_refusal(run: Run, error: ReplayError) -> None:
    """What a queued job needs may have changed before its turn came: then it was not begun, and nothing was told."""
    try:
        if run.manifest().status_said == "queued":
            _fail(run, error.what, error.remedy)
    except ReplayError as refusal:
        logger.error("Run %s was refused (%s), and its folder could not be told: %s", run.id, error, refusal)


def _fail(run: Run, what: str, remedy: str) -> None:
    status = "finished" if run.manifest().scored else "failed"
    run.events_log.append("failed", what=what, remedy=remedy)
    run.update_manifest(status_said=status, error=ErrorRecord(what, remedy, "failed"))


class JobQueue:
    """The jobs of the runs in one folder. Use `of`, which gives the process's one queue of that folder."""

    def __init__(self, root: Path):
        self.root = Path(root)
        self._not_measurable: set[RunConfig] = set()
        if not files.read_only():  # then no job is ever taken
            runs.sweep(self.root)
            files.sweep(self.root, recursive=False)  # runs that were being made, and what an estimate tried out
            _worker.start()

    @classmethod
    def of(cls, root: Path) -> "JobQueue":
        with _queues_mutex:
            if root not in _queues:
                _queues[root] = cls(root)
            return _queues[root]

    @property
    def loaded(self) -> threading.Event:
        """Set once torch is loaded, so that jobs begin at once."""
        return _worker.loaded

    @property
    def failure(self) -> str:
        """Why the engine could not be loaded; empty where it was, or is being."""
        return _worker.failure

    def start(self, config: RunConfig) -> str:
        """Checks the configuration, makes the run's folder, queues it, and returns its id. It comes from the app, so it
        may name only what the app offers."""
        run = Run.create(self.root, _checked(config))
        self._enqueue(run, None)
        return run.id

    def probe(self, config: RunConfig) -> Probing:
        """Queues the probe of a configuration, and returns it at once: the same one where it is in hand already. What
        was measured before is not looked at (`engine.jobs.probe.known`)."""
        files.check_writable(self.root)
        config = _checked(config)
        with _probes_mutex:
            for probing in _worker.probes(self.root):
                if probing.config == config and not (probing.ends or probing.asked_to_stop.is_set()):
                    return probing
            probing = Probing(self.root, config)
            _worker.add(_HeldProbe(probing))
        return probing

    def probes(self) -> list[Probing]:
        """Probes in this process's hands, the one being worked on first."""
        return [probing for probing in _worker.probes(self.root) if not probing.ends]

    def calibrate(self, config: RunConfig) -> None:
        """Measures how long a run takes here, unless that is known (`engine.jobs.speed.known`), once there is nothing
        else to do."""
        if files.read_only() or config in self._not_measurable or speed.known(self.root, config) is not None:
            return
        with _probes_mutex:
            if not _worker.held(self.root) and config not in _worker.calibrations(self.root):
                _worker.add(_HeldCalibration(self.root, config, self._not_measurable))

    def submit(self, run_id: str, job: Job, asked_on: str = "", asked_about: str = "") -> None:
        """Queues a job of a trained run. Raises what `Job.check` raises, before anything is recorded; the run's
        other unfinished jobs stay. The log says on which page it was asked for, and with which target in view."""
        asked = {"asked_on": asked_on, "asked_about": asked_about}
        self._enqueue(Run.open(self.root, run_id), job, {name: text for name, text in asked.items() if text})

    def resume(self, run_id: str) -> None:
        """Queues all that was not finished of a run that was killed, cancelled or failed."""
        run = Run.open(self.root, run_id)
        files.check_writable(run.path)
        if not unfinished(run):
            raise ConfigError(f"Run {run_id} has nothing left to do.", "Look at its scores, or name further targets.")
        self._enqueue(run, None)

    def _enqueue(self, run: Run, job: Job | None, asked: dict[str, str] | None = None) -> None:
        files.check_writable(run.path)
        if job is not None:
            dataset = dataset_registry.load(run.manifest().config.dataset)
        self._wait_for_release(run)
        lock = run.lock().acquire()
        try:
            if job is not None:
                job = job.check(run, dataset)  # once the run is held, so that it fits what the run keeps then
            ahead = len(self.active())
            try:
                _record(run, job)
                kind = job.kind if job is not None else records(run.manifest())[0].kind
                run.events_log.append("queued", ahead=ahead, job=kind, **(asked or {}))
            except StorageError as error:
                if not error.passing:
                    raise
                # The disk is full: the worker records the job, and waits for space.
        except BaseException:
            os.close(lock)
            raise
        _worker.add(_Held(run, lock, job))

    def _wait_for_release(self, run: Run) -> None:
        """A run that says that it is finished is free at once: its lock is let go right after that was written."""
        for held in _worker.held(self.root):
            if held.run.id == run.id and run.manifest().status_said not in IN_PROGRESS:
                held.released.wait(A_STEP)

    def cancel(self, run_id: str) -> bool:
        """A queued run is cancelled at once, one being worked on is asked to stop at its next step; False where this
        process has none of that name."""
        for held in _worker.held(self.root):
            if held.run.id != run_id:
                continue
            if _worker.take_back(held):
                try:
                    _cancelled(held.run)
                finally:
                    held.release()
            else:
                held.cancel.set()
            return True
        return False

    def is_stopping(self, run_id: str) -> bool:
        """Whether a run that is being worked on was told to stop, and has not stopped yet."""
        return any(held.run.id == run_id and held.cancel.is_set() for held in _worker.held(self.root))

    def active(self) -> list[str]:
        """Run ids in this process's hands, the one being worked on first."""
        return [held.run.id for held in _worker.held(self.root)]

    def stop(self) -> None:
        """Ends the worker within a step: runs in its hands stand as after a kill, and can be resumed. Called at the
        process's end; a later submission starts the worker again."""
        _worker.stop()


def discard(run: Run, number: int, seen: JobRecord | None = None) -> JobRecord:
    """Takes the unfinished job `number`, from 0, off a trained run, and returns its record; also of a kind that is not
    known here. `seen`: what the caller saw under that number, so that two who click discard one job, and not two."""
    record = run.manifest()
    if not record.trained and not record.method:
        raise ConfigError(
            f"Run {run.id} is not trained yet, so that nothing of it can be discarded.", "Delete the run."
        )
    with run.lock():
        jobs = run.manifest().jobs
        if not 0 <= number < len(jobs):
            raise ConfigError(f"Run {run.id} has no unfinished job {number}.", f"It has {len(jobs)}, counted from 0.")
        if seen not in (None, jobs[number]):
            raise ConfigError(
                f"The unfinished jobs of run {run.id} have changed since they were shown.", "Look at them again."
            )
        left = tuple(record for i, record in enumerate(jobs) if i != number)
        run.update_manifest(jobs=left, **({} if left else {"status_said": "finished", "error": None}))
        run.events_log.append("note", text=f"The unfinished job «{jobs[number].kind}» was discarded.")
    return jobs[number]


def _checked(config: RunConfig) -> RunConfig:
    """A configuration of the app, ready to run: it may name only what the app offers."""
    config = check_offered(config.replace(dataset=dataset_registry.canonical(config.dataset)))
    dataset = dataset_registry.load(config.dataset)
    return check(read_questions(config, dataset), *dataset.sizes)


def _is_recorded(run: Run, job: Job | None) -> bool:
    return job is None or job.record() in records(run.manifest())


def _record(run: Run, job: Job | None) -> None:
    recorded = records(run.manifest())
    if job is not None and job.record() not in recorded:
        recorded = [*recorded, job.record()]
    run.update_manifest(jobs=tuple(recorded), status_said="queued")


def _cancelled(run: Run) -> None:
    what, remedy = "Cancelled before it began: it has left the queue.", "What was trained and scored before is kept."
    with contextlib.suppress(StorageError):  # a full disk: the log has a gap
        run.events_log.append("cancelled", what=what, remedy=remedy)
    status = "finished" if run.manifest().scored else "cancelled"
    run.update_manifest(status_said=status, error=ErrorRecord(what, remedy, "cancelled"))
