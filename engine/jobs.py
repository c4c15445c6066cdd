"""One worker thread with a queue: a page submits and returns at once.

The manager belongs to the process, not to a page or a tab. What happens to a job is told by
its run's own events and manifest alone, so a page that comes later, or another process, sees
the same. A run's lock is held from submission to the end: a server that dies leaves its runs
«interrupted», queued ones too.
"""

import logging
import os
import queue
import threading
from dataclasses import dataclass, field
from pathlib import Path

from engine import data, influence
from engine.config import RunConfig, check
from engine.errors import ConfigError, ReplayError
from engine.runs import Run

logger = logging.getLogger(__name__)


@dataclass
class Job:
    run: Run
    lock: int
    targets: tuple[str, ...] | None      # None: train, then replay the configuration's targets
    function: str | None
    cancel: threading.Event = field(default_factory=threading.Event)


class JobManager:
    def __init__(self, root: Path):
        self.root = root
        self._queue: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._jobs: dict[str, Job] = {}       # queued and running, by run id
        self._mutex = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="replay-engine", daemon=True)
        self._thread.start()

    def submit(self, config: RunConfig) -> str:
        """Checks the configuration, makes the run's folder, queues it, and returns its id."""
        dataset = data.load(config.dataset)
        check(config, len(dataset.train_labels), len(dataset.test_labels), len(dataset.classes))
        with self._mutex:
            run = Run.create(self.root, config)
            self._enqueue(run, None, None)
        return run.id

    def submit_targets(self, run_id: str, targets: tuple[str, ...], function: str) -> None:
        """Queues a replay of further targets of a trained run, without training again."""
        run = Run.open(self.root, run_id)
        dataset = data.load(run.config.dataset)
        for target in targets:
            influence.resolve(target, dataset.test_labels, len(dataset.classes))
        if not targets:
            raise ConfigError("No target was named.", "Choose at least one test image or class.")
        with self._mutex:
            self._enqueue(run, tuple(targets), function)

    def _enqueue(self, run: Run, targets, function) -> None:
        lock = run.acquire()
        try:
            run.update_manifest(status="queued")
            run.events_log.append("queued", ahead=len(self._jobs))
        except BaseException:
            os.close(lock)
            raise
        job = Job(run, lock, targets, function)
        self._jobs[run.id] = job
        self._queue.put(job)

    def cancel(self, run_id: str) -> bool:
        """Asks a queued or running job to stop at its next step; False where this process has none."""
        job = self._jobs.get(run_id)
        if job is None:
            return False
        job.cancel.set()
        return True

    def active(self) -> list[str]:
        """Run ids in this process's hands, the one being worked on first."""
        return list(self._jobs)

    def _work(self) -> None:
        from engine import work      # loads torch here, so that the first page need not wait
        while True:
            job = self._queue.get()
            try:
                work.execute(job.run, job.targets, job.function, job.cancel)
            except ReplayError:
                pass                 # told by the run's events, and logged there
            except BaseException:    # the thread must outlive every job; the run's log has the rest
                logger.exception("Run %s failed.", job.run.id)
            finally:
                self._jobs.pop(job.run.id, None)
                os.close(job.lock)
