"""One worker thread with a queue: a page submits and returns at once.

The manager belongs to the process, not to a page or a tab. What happens to a job is told by
its run's own events and manifest alone, so a page that comes later, or another process, sees
the same. A run's lock is held from submission to the end: a server that dies leaves its runs
«interrupted», queued ones too.
"""

import gc
import logging
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from engine import files
from engine.analysis import lds
from engine.analysis import what_if as what_ifs
from engine.config import RunConfig, check
from engine.datasets import registry as dataset_registry
from engine.errors import ConfigError, ReplayError
from engine.runs import run as runs
from engine.runs import uploads
from engine.runs.job import Job
from engine.runs.run import Run
from engine.targets import Target, UploadedImage

logger = logging.getLogger(__name__)


@dataclass
class _Held:
    run: Run
    lock: int
    cancel: threading.Event = field(default_factory=threading.Event)


class JobManager:
    def __init__(self, root: Path):
        self.root = root
        self._queue: queue.SimpleQueue[_Held] = queue.SimpleQueue()
        self._jobs: dict[str, _Held] = {}  # queued and running, by run id
        self._mutex = threading.Lock()
        self.loaded = threading.Event()  # torch is there, and jobs begin at once
        self._thread = threading.Thread(target=self._work, name="replay-engine", daemon=True)
        if not files.read_only():  # then no job is ever taken
            runs.sweep(root)
            self._thread.start()

    def submit(self, config: RunConfig) -> str:
        """Checks the configuration, makes the run's folder, queues it, and returns its id."""
        dataset = dataset_registry.load(config.dataset)
        check(config, *dataset.sizes)
        with self._mutex:
            run = Run.create(self.root, config)
            self._enqueue(run, None)
        return run.id

    def submit_targets(self, run_id: str, targets: tuple[str, ...], function: str, mode: str | None = None) -> None:
        """Queues a replay of further targets of a trained run; `mode` as in `Run.mode_for`."""
        run = Run.open(self.root, run_id)
        dataset = dataset_registry.load(run.config.dataset)
        for target in map(Target.parse, targets):
            target.resolve(dataset.test_labels, len(dataset.classes))
            if isinstance(target, UploadedImage):
                uploads.read(run, target.image_id)  # raises where it is not kept with this run
        if not targets:
            raise ConfigError("No target was named.", "Choose at least one test image or class.")
        with self._mutex:
            self._enqueue(run, lambda: Job("replay", run.mode_for(mode), tuple(targets), function))

    def submit_rebuild(self, run_id: str, mode: str) -> None:
        """Queues the rebuilding of a run's checkpoints for disk or recompute mode."""
        run = Run.open(self.root, run_id)
        with self._mutex:
            self._enqueue(run, lambda: Job("rebuild", run.mode_for(mode)))

    def submit_validation(self, run_id: str, subsets: int, drops: tuple[float, ...], seed: int = 0) -> None:
        """Queues the retraining of a run without random subsets, and the comparison with its scores."""
        run = Run.open(self.root, run_id)
        lds.check_plan(subsets, drops, seed, len(dataset_registry.load(run.config.dataset).train_labels))
        self._check(run, "validate", {"subsets": subsets, "drops": list(drops), "seed": seed})

    def submit_what_if(self, run_id: str, left_out, relabelled: dict[int, int]) -> None:
        """Queues one retraining without some images, or with other labels for some."""
        run = Run.open(self.root, run_id)
        left_out, relabelled = what_ifs.check_changes(left_out, relabelled, dataset_registry.load(run.config.dataset))
        self._check(
            run, "what-if", {"left_out": left_out.tolist(), "relabelled": {str(i): c for i, c in relabelled.items()}}
        )

    def submit_smoothness(self, run_id: str, directions: int = 2, seed: int = 0) -> None:
        """Queues the measurement of a run's metasmoothness."""
        self._check(Run.open(self.root, run_id), "smoothness", {"directions": directions, "seed": seed})

    def _check(self, run: Run, kind: str, options: dict) -> None:
        with self._mutex:
            self._enqueue(run, lambda: Job(kind, options=options))

    def resume(self, run_id: str) -> None:
        """Queues what was not finished of a run that was killed, cancelled or failed."""
        run = Run.open(self.root, run_id)
        if run.job is None:
            raise ConfigError(f"Run {run_id} has nothing left to do.", "Look at its scores, or name further targets.")
        with self._mutex:
            self._enqueue(run, None)

    def _enqueue(self, run: Run, job: Callable[[], Job] | None) -> None:
        """The job is made once the run is held, so that it fits what the run keeps then."""
        lock = run.acquire()
        try:
            if job is not None:
                run.assign(job())
            run.update_manifest(status="queued")
            run.events_log.append("queued", ahead=len(self._jobs))
        except BaseException:
            os.close(lock)
            raise
        held = _Held(run, lock)
        self._jobs[run.id] = held
        self._queue.put(held)

    def cancel(self, run_id: str) -> bool:
        """Asks a queued or running job to stop at its next step; False where this process has none."""
        held = self._jobs.get(run_id)
        if held is None:
            return False
        held.cancel.set()
        return True

    def active(self) -> list[str]:
        """Run ids in this process's hands, the one being worked on first."""
        return list(self._jobs)

    def _work(self) -> None:
        from engine.jobs import execute as work  # loads torch here, so that the first page need not wait

        if not gc.get_freeze_count():
            # Modules never become garbage. Streamlit collects after every page, and without this it would look
            # through all of torch's each time, for 0.1 s and more.
            gc.collect()
            gc.freeze()
        self.loaded.set()
        while True:
            held = self._queue.get()
            try:
                work.execute(held.run, cancel=held.cancel)
            except ReplayError:
                pass  # told by the run's events, and logged there
            except BaseException:  # the thread must outlive every job; the run's log has the rest
                logger.exception("Run %s failed.", held.run.id)
            finally:
                self._jobs.pop(held.run.id, None)
                os.close(held.lock)
