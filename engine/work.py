"""What a run does, from its configuration to its scores, told to its folder as it happens.

`execute` is the one way to work on a run, for the worker thread, the command line and any
process of tomorrow. It holds no lock itself: its caller does (`Run.acquire`), so that a queued
run is already taken. Whatever happens, the folder says it: in the manifest's status, in the
events, and, for what was not foreseen, in log.txt with the traceback.
"""

import contextlib
import logging
import platform
import resource
import threading
import time
import traceback

import numpy as np
import safetensors
import torch

from engine import data, device as devices, files, influence, models, targets as phi
from engine.check import check_model
from engine.config import check
from engine.errors import (CancelledError, ConfigError, DataError, IntegrityError, ReplayError,
                           StorageError)
from engine.replay import bytes_per_target, chunk_that_fits, replay
from engine.runs import Run, disk_free
from engine.schedule import plan_for
from engine.state import State, examples
from engine.store import DiskTrajectory, MemoryTrajectory, read_state, write_state
from engine.training import train

logger = logging.getLogger(__name__)
REPORT_EVERY = 0.25     # seconds between progress events
RATE_OVER = 5.0         # seconds that the rate is taken over
SPARE = ".spare"        # given up when the disk is full, so that the failure can be written down
SPARE_BYTES = 64 * 1024


def execute(run: Run, targets: tuple[str, ...] | None = None, function: str | None = None,
            cancel: threading.Event | None = None, on_event=None) -> str | None:
    """Trains and replays the run's own targets; or, given `targets`, replays these alone.

    Returns the name of the score set. `cancel` stops it at the next step. `on_event(event)` is
    told every event beside the log. Raises the tree of `engine.errors`; the folder has been told.
    """
    work = None
    try:
        run.events_log.append("started")
        files.write_bytes(run.path / SPARE, bytes(SPARE_BYTES))
        work = _Work(run, cancel or threading.Event(), on_event)
        with devices.exact_arithmetic():
            if targets is None:
                work.train()
                targets, function = work.config.targets, work.config.target_function
            name = work.replay(targets, function)
        run.update_manifest(status="finished", error=None)
        work.event("finished", scores=name)
        return name
    except BaseException as error:
        _tell(run, error, work)
        raise
    finally:
        with contextlib.suppress(OSError):
            (run.path / SPARE).unlink(missing_ok=True)


def _tell(run: Run, error: BaseException, work: "_Work | None") -> None:
    with contextlib.suppress(OSError):
        (run.path / SPARE).unlink(missing_ok=True)
    if isinstance(error, ReplayError):
        what, remedy = error.what, error.remedy
    elif isinstance(error, KeyboardInterrupt):
        what, remedy = "The run was interrupted from the keyboard.", "Start it again."
    elif isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        what, remedy = (f"Memory ran out ({str(error).splitlines()[0] if str(error) else 'RAM'}).",
                        "Carry fewer targets per pass, use a smaller batch, or keep the trajectory on disk.")
    else:
        what, remedy = (f"{type(error).__name__}: {error}",
                        "This was not foreseen. The traceback is in the run's log.txt.")
    cancelled = isinstance(error, (CancelledError, KeyboardInterrupt))
    kind = "cancelled" if cancelled else "failed"
    try:
        # A run that has scores keeps them, whatever became of a later replay.
        status = "finished" if run.manifest.get("scored") else kind
        run.update_manifest(status=status, error={"what": what, "remedy": remedy, "kind": kind})
        run.events_log.append(kind, what=what, remedy=remedy)
        if work is not None and work.on_event is not None:
            work.on_event({"kind": kind, "what": what, "remedy": remedy})
        if not cancelled:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S %z")
            with (run.path / "log.txt").open("a", encoding="utf-8") as log:
                log.write(f"{stamp}\n{''.join(traceback.format_exception(error))}\n")
    except (OSError, ReplayError):
        logger.exception("Run %s failed (%s), and its folder could not be told.", run.id, what)


class _Work:
    def __init__(self, run: Run, cancel: threading.Event, on_event):
        self.run, self.cancel, self.on_event = run, cancel, on_event
        self.config = run.config
        self.dataset = data.load(self.config.dataset)
        check(self.config, len(self.dataset.train_labels), len(self.dataset.test_labels),
              len(self.dataset.classes))
        self.device = devices.choose(self.config.device)
        self.dtype = getattr(torch, self.config.precision)
        self.digest = self.config.training_digest(self.dataset.fingerprint)
        self.steps = len(plan_for(self.config.recipe, len(self.dataset.train_labels)))
        self.event("phase", phase="prepare", steps=0)
        self._check_data()
        self.model = models.functional(self.config, self.dataset, self.device)
        self.examples = examples(self.dataset, "train", self.device, self.dtype)
        self.test = examples(self.dataset, "test", self.device, self.dtype)

    # -- phases

    def train(self) -> None:
        run, config = self.run, self.config
        check_model(self.model, self.examples, config.recipe)
        on_disk = config.replay_mode == "disk"
        self.trajectory = self._disk() if on_disk else MemoryTrajectory()
        run.update_manifest(
            status="training", training_digest=self.digest, data_fingerprint=self.dataset.fingerprint,
            versions={"python": platform.python_version(), "torch": torch.__version__,
                      "numpy": np.__version__, "safetensors": safetensors.__version__},
            device=str(self.device), device_name=devices.describe(self.device),
            threads=torch.get_num_threads(), precision=config.precision, tf32=False,
            deterministic="cudnn" if self.device.type == "cuda" else "cpu",
            steps=self.steps, parameters=self.model.parameters, buffers=self.model.buffers)
        self.event("phase", phase="train", steps=self.steps)
        meter = _Meter(self, "train")

        def progress(done: int, losses: list[float], rates: list[float]) -> None:
            meter.losses += losses
            meter.rates += rates
            meter.report(done, last=done == self.steps)

        began = time.monotonic()
        self.final = train(self.model, self.examples, config.recipe, trajectory=self.trajectory,
                           on_progress=progress, before_step=self._stop_if_cancelled)
        seconds = time.monotonic() - began
        self.event("phase", phase="evaluate", steps=0)
        logits = phi.logits(self.model, self.final, self.test).float().cpu().numpy()
        accuracy = float((logits.argmax(1) == self.dataset.test_labels).mean())
        folder = run.path / "model"
        run.add_files({
            "model/state.safetensors": write_state(
                folder / "state.safetensors", self.final._asdict(), {"training": self.digest}),
            "model/test_logits.npy": files.write_npy(folder / "test_logits.npy", logits)})
        each = files.size_of(self.trajectory.path(0)) if on_disk else 0
        self._timing("train_seconds", seconds)
        run.update_manifest(
            trained=True, test_accuracy=accuracy,
            trajectory={"mode": config.replay_mode, "kept": on_disk, "steps": self.steps,
                        "bytes_per_step": each})
        self.event("note", text=f"Trained in {seconds:.1f} s; test accuracy {accuracy:.1%}.")

    def replay(self, targets: tuple[str, ...], function: str) -> str:
        run, recipe = self.run, self.config.recipe
        if not hasattr(self, "final"):
            self._reopen()
        run.update_manifest(status="replaying")
        self.event("phase", phase="replay", steps=self.steps)
        labels, classes = self.dataset.test_labels, len(self.dataset.classes)
        sets = [influence.resolve(t, labels, classes) for t in targets]
        adjoint = phi.adjoints(self.model, self.final, self.test, sets, function)
        values = phi.values(self.model, self.final, self.test, sets, function).tolist()
        norms = [adjoint.theta.norm(dim=1)] * 2
        batch_shape = self.examples.batch(range(recipe.batch_size))[0].shape
        chunk = self.config.targets_per_pass or chunk_that_fits(
            bytes_per_target(self.model, batch_shape), len(targets), self.device)
        meter = _Meter(self, "replay")

        def progress(done: int, adjoint) -> None:
            meter.report(done, last=done == self.steps)
            if done == self.steps:
                norms[1] = adjoint.theta.norm(dim=1)

        began = time.monotonic()
        scores = replay(self.model, self.examples, recipe, self.trajectory, adjoint,
                        targets_per_pass=chunk, on_progress=progress,
                        before_step=self._stop_if_cancelled)
        self._timing("replay_seconds", time.monotonic() - began)
        run.update_manifest(targets_per_pass=chunk)
        growth = (norms[1] / norms[0]).tolist()
        return self._write_scores(targets, function, sets, scores.float().cpu().numpy(), values, growth)

    def _write_scores(self, targets, function, sets, scores, values, growth) -> str:
        run = self.run
        name = f"{function}-{len(run.score_sets()):03d}"
        folder = run.path / "scores"
        sha = files.write_npy(folder / f"{name}.npy", scores)
        sidecar = {
            "schema": 1, "shape": list(scores.shape), "dtype": "float32", "sha256": sha,
            "target_function": function, "unit": influence.unit(function),
            "sign": influence.meaning(function), "training_digest": self.digest,
            "data_fingerprint": self.dataset.fingerprint,
            "targets": [{"name": t, "title": influence.title(t, self.dataset),
                         "test_images": len(s), "value": v, "adjoint_growth": g}
                        for t, s, v, g in zip(targets, sets, values, growth, strict=True)]}
        run.add_files({f"scores/{name}.npy": sha,
                       f"scores/{name}.json": files.write_json(folder / f"{name}.json", sidecar)})
        run.update_manifest(scored=True)
        self.event("note", text=f"Wrote scores/{name}.npy, {scores.shape[0]} targets × "
                                f"{scores.shape[1]:,} training images. From the end of training to its "
                                f"start the adjoint's norm grew × {max(growth):.3g} at most.")
        return name

    # -- parts

    def _reopen(self) -> None:
        """Final state and trajectory of a run trained before."""
        run, manifest = self.run, self.run.manifest
        kept = manifest.get("trajectory", {})
        if not manifest.get("trained"):
            raise ConfigError(f"Run {run.id} was not trained to its end.", "Start it again.")
        if manifest.get("training_digest") != self.digest:
            raise IntegrityError(f"The configuration of run {run.id} is not the one it was trained with.",
                                 "Restore its config.json, or start a run with these settings.")
        if not kept.get("kept"):
            raise ConfigError(
                f"Run {run.id} keeps no trajectory (it was replayed in {kept.get('mode')} mode, or "
                "its checkpoints were deleted).",
                "Start it again in disk mode with all the targets you want.")
        self.trajectory = self._disk()
        if missing := self.trajectory.missing(self.steps):
            raise IntegrityError(f"Step {missing[0]} of run {run.id} is missing from the trajectory "
                                 f"({len(missing)} of {self.steps} steps are).", "Start the run again.")
        state = read_state(run.path / "model" / "state.safetensors", {"training": self.digest},
                           "Start the run again.")
        self.final = State(**{k: t.to(self.device) for k, t in state.items()})

    def _disk(self) -> DiskTrajectory:
        return DiskTrajectory(self.run.path / "trajectory", self.digest, self.device)

    def _check_data(self) -> None:
        recorded = self.run.manifest.get("data_fingerprint")
        if recorded not in (None, self.dataset.fingerprint):
            raise DataError(f"The data set {self.dataset.name} has changed since run {self.run.id} "
                            "was made.", "Restore it, or start a new run.")

    def _stop_if_cancelled(self, t: int) -> None:
        if self.cancel.is_set():
            raise CancelledError(f"Cancelled before step {t + 1} of {self.steps}.",
                                 "What was trained and scored before is kept.")

    def _timing(self, name: str, seconds: float) -> None:
        timings = {**self.run.manifest.get("timings", {}), name: round(seconds, 3)}
        peak = {"rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
        if self.device.type == "cuda":
            peak["gpu"] = torch.cuda.max_memory_allocated(self.device)
        self.run.update_manifest(timings=timings, peak_bytes=peak)

    def event(self, kind: str, **fields) -> None:
        event = self.run.events_log.append(kind, **fields)
        if self.on_event is not None:
            self.on_event(event)


class _Meter:
    """Progress events of one phase, at most one every REPORT_EVERY seconds, and one at its end."""

    def __init__(self, work: _Work, phase: str):
        self.work, self.phase, self.losses, self.rates = work, phase, [], []
        self.reported = 0.0
        self.marks = [(time.monotonic(), 0)]      # (time, steps done), over the last RATE_OVER

    def report(self, done: int, last: bool) -> None:
        now = time.monotonic()
        if not last and now - self.reported < REPORT_EVERY:
            return
        self.reported = now
        self.marks.append((now, done))
        while len(self.marks) > 2 and now - self.marks[1][0] > RATE_OVER:
            self.marks.pop(0)
        (then, before), work = self.marks[0], self.work
        fields = {}
        if self.losses:
            fields = {"losses": [float(f"{v:.6g}") for v in self.losses],
                      "rates": [float(f"{v:.6g}") for v in self.rates]}
            self.losses, self.rates = [], []
        work.event("progress", phase=self.phase, step=done, steps=work.steps,
                   rate=round((done - before) / max(now - then, 1e-9), 4),
                   disk_used=files.size_of(work.run.path), disk_free=disk_free(work.run.root),
                   **devices.usage(work.device), **fields)
