"""What is done with a run, told to its folder as it happens.

`execute` is the one way to work on a run, for the worker thread, the command line and any
process of tomorrow. What is to be done is the run's job (`engine.runs.Job`), which stays in the
manifest until it is done: to resume a run is to execute it again. It holds no lock itself: its
caller does (`Run.acquire`), so that a queued run is already taken. Whatever happens, the folder
says it: in the manifest's status, in the events, and, for what was not foreseen, in log.txt with
the traceback.

What a killed run goes on from are two files beside its trajectory, each replaced whole:

    resume-training    the full state, once all states before it are on disk; memory mode, which
                       loses those with its process, trains again instead
    resume-replay      adjoint and partial scores; less often where writing them would take more
                       than `RESUME_SHARE` of the time

Both are written twice a segment (`segment_length` steps), each waiting for the one before: with one
of them still on its way to the disk, a kill loses at most a segment.
"""

import contextlib
import json
import logging
import platform
import threading
import time
import traceback
from collections import deque
from concurrent.futures import Future

import numpy as np
import safetensors
import torch

from engine import device as devices
from engine import files, space
from engine.config import check
from engine.core import targets as phi
from engine.core.check import check_model
from engine.core.memory import bytes_per_target, chunk_that_fits
from engine.core.replay import replay
from engine.core.state import Adjoint, State, Trajectory
from engine.core.stream import Examples, Stream, examples
from engine.core.training import advance, initial_state, optimizer_for, train
from engine.datasets import registry as dataset_registry
from engine.errors import CancelledError, ConfigError, DataError, IntegrityError, ReplayError, StorageError
from engine.jobs import validation as validate
from engine.models import registry as model_registry
from engine.runs import uploads
from engine.runs.job import Job
from engine.runs.run import Run
from engine.targets import Target, UploadedImage, target_function
from engine.trajectory.digests import Digests
from engine.trajectory.modes import Checkpoints, EveryState
from engine.trajectory.segments import segment_length
from engine.trajectory.state_files import bytes_of, named, read_state, read_with_header, state_of, write_state
from engine.trajectory.stores import DiskStore, MemoryStore
from engine.trajectory.writer import Writer

logger = logging.getLogger(__name__)

REPORT_EVERY = 0.25, 5.0  # seconds between progress events: at first, and in a long run

RATE_OVER = 5.0  # seconds that the rate is taken over

METER_SHARE = 0.005  # of the time, at most, for looking at the meters

RESUME_SHARE = 0.03  # of the time, at most, for writing what a killed replay goes on from

SPARE = ".spare"  # given up when the disk is full, so that the failure can be written down

SPARE_BYTES = 64 * 1024

NORMS = 32  # looks at the adjoint's norm during a replay

SMALL = 1 << 16  # bytes: more than a manifest or a sidecar takes

RESUME_TRAINING, RESUME_REPLAY = "resume-training.safetensors", "resume-replay.safetensors"


def execute(run: Run, job: Job | None = None, cancel: threading.Event | None = None, on_event=None) -> str | None:
    """Does the job given, or else the one in hand: the whole run at first, or what was not finished.

    Returns the name of the score set or report, None for a rebuild. `cancel` stops it at the next step.
    `on_event(event)` is told every event beside the log. Raises the tree of `engine.errors`; the
    folder has been told.
    """
    files.check_writable(run.path)
    work, cancel = None, cancel or threading.Event()
    try:
        if job is not None:
            run.assign(job)
        job = run.job
        if job is None:
            raise ConfigError(f"Run {run.id} has nothing left to do.", "Name further targets, or look at its scores.")
        run.events_log.append("started")
        files.sweep(run.path)
        files.write_bytes(run.path / SPARE, bytes(SPARE_BYTES))
        work = _Work(run, job, cancel, on_event)
        with devices.exact_arithmetic():
            name = work.do()
        work.update(status="finished", error=None, job=None)
        work.event("finished", scores=name)
        return name
    except BaseException as error:
        cancel.set()  # what waits for space waits no longer
        _tell(run, error, work)
        raise
    finally:
        if work is not None:
            work.close()
        with contextlib.suppress(OSError):
            (run.path / SPARE).unlink(missing_ok=True)


def _tell(run: Run, error: BaseException, work: "_Work | None") -> None:
    with contextlib.suppress(OSError):
        (run.path / SPARE).unlink(missing_ok=True)
    if isinstance(error, ReplayError):
        what, remedy = error.what, error.remedy
    elif isinstance(error, KeyboardInterrupt):
        what, remedy = "The run was interrupted from the keyboard.", "Resume it to go on."
    elif isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        what, remedy = (
            f"Memory ran out ({str(error).splitlines()[0] if str(error) else 'RAM'}).",
            "Carry fewer targets per pass, use a smaller batch, or replay in disk mode.",
        )
    else:
        what, remedy = (
            f"{type(error).__name__}: {error}",
            "This was not foreseen. The traceback is in the run's log.txt.",
        )
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
    def __init__(self, run: Run, job: Job, cancel: threading.Event, on_event):
        self.run, self.job, self.cancel, self.on_event = run, job, cancel, on_event
        self.config, manifest = run.config, run.manifest
        self.dataset = dataset_registry.load(self.config.dataset)
        check(self.config, *self.dataset.sizes)
        self.device = devices.choose(self.config.device)
        self.peak = devices.Peak(self.device, reset=True)
        self.dtype = getattr(torch, self.config.precision)
        self.digest = self.config.training_digest(self.dataset.fingerprint)
        self.room = space.DiskSpace(run.path, cancel, self.event)
        self.writer = Writer(self.room)
        self.looking = 0.0  # seconds spent on the meters
        self.traffic = files.io_counters.written, files.io_counters.read
        self.event("phase", phase="prepare", steps=0)
        self._check_origin(manifest)
        if self.device.type == "cpu" and "threads" in manifest:
            torch.set_num_threads(manifest["threads"])  # sums in the same order, so the same bits
        self.model = model_registry.functional(self.config, self.dataset, self.device)
        self.examples = examples(self.dataset, "train", self.device, self.dtype)
        self.test = examples(self.dataset, "test", self.device, self.dtype)
        self.stream = Stream(self.examples, self.config.recipe)
        self.steps = self.stream.steps
        self.optimizer = optimizer_for(self.model, self.config.recipe)
        self.initial = initial_state(self.model, self.optimizer)
        self.every = segment_length(
            self.steps,
            bytes_of(named(self.initial, self.optimizer)),
            self.config.segment,
            round(self.config.checkpoint_mb * 1e6),
        )
        self.trajectory: Trajectory | None = None
        self._resume_written: Future | None = None

    def do(self) -> str | None:
        if self.run.manifest.get("trained"):
            self._reopen()
        else:
            self._train()
        if self.job.kind in validate.JOBS:
            self.update(status="validating")
            began = time.monotonic()
            name = validate.JOBS[self.job.kind](self)
            self._timing("validate_seconds", time.monotonic() - began)
            return name
        name = None
        if self.job.kind == "rebuild":
            self._rebuild()
        else:
            name = self._replay()
        self._settle()
        return name

    def close(self) -> None:
        self.writer.close()
        if self.trajectory is not None:
            self.trajectory.close()

    # -- phases

    def _train(self) -> None:
        config = self.config
        check_model(self.model, self.stream)
        self.update(
            status="training",
            training_digest=self.digest,
            data_fingerprint=self.dataset.fingerprint,
            versions={
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
                "safetensors": safetensors.__version__,
            },
            device=str(self.device),
            device_name=devices.describe(self.device),
            threads=torch.get_num_threads(),
            precision=config.precision,
            tf32=False,
            deterministic="cudnn" if self.device.type == "cuda" else "cpu",
            steps=self.steps,
            parameters=self.model.parameters,
            buffers=self.model.buffers,
        )
        start, state, known = self._resume_training()
        digests = Digests(self.optimizer, self.every, self.steps, known)
        self.trajectory = self._trajectory(digests)
        self.event("phase", phase="train", steps=self.steps, done=start)
        meter = _Meter(self, "train", self.steps, start)

        def progress(done: int, losses: list[float], rates: list[float]) -> None:
            meter.losses += losses
            meter.rates += rates
            meter.report(done)

        began = time.monotonic()
        self.final = train(
            self.model,
            self.stream,
            trajectory=_WithResume(self, digests),
            on_progress=progress,
            before_step=self.stop_if_cancelled,
            resume=(start, state),
        )
        seconds = time.monotonic() - began
        self.event("phase", phase="evaluate", steps=0)
        logits = {
            split: phi.logits(self.model, self.final, of).float().cpu().numpy()
            for split, of in (("train", self.examples), ("test", self.test))
        }
        accuracy = float((logits["test"].argmax(1) == self.dataset.test_labels).mean())
        model = self.run.path / "model"
        final = named(self.final, self.optimizer)
        self.add_files(
            {
                "model/state.safetensors": self.room.write(
                    bytes_of(final),
                    lambda: write_state(model / "state.safetensors", final, {"training": self.digest}),
                ),
                **{
                    f"model/{split}_logits.npy": self.room.write(
                        values.nbytes, lambda: files.write_npy(model / f"{split}_logits.npy", values)
                    )
                    for split, values in logits.items()
                },
                "model/digests.json": self.room.write(
                    100 * len(digests.known),
                    lambda: files.write_json(model / "digests.json", {"every": self.every, "sha256": digests.known}),
                ),
            }
        )
        self._timing("train_seconds", seconds)
        self.update(
            trained=True,
            test_accuracy=accuracy,
            trajectory={
                "kept": self.job.mode if self.job.mode != "memory" else None,
                "every": self.every,
                "steps": self.steps,
            },
        )
        self.event("note", text=f"Trained in {seconds:.1f} s; test accuracy {accuracy:.1%}.")

    def _rebuild(self) -> None:
        self.update(status="rebuilding")
        if self.job.mode == "memory":
            raise ConfigError("Nothing is kept in memory once a run has ended.", "Rebuild for disk or recompute mode.")
        began = time.monotonic()
        self.trajectory.rebuild()
        seconds = time.monotonic() - began
        self._timing("rebuild_seconds", seconds)
        self.event(
            "note",
            text=f"Checkpoints for {self.job.mode} mode are complete after {seconds:.1f} s: "
            f"{self.trajectory.rebuilt} of {self.steps} steps were trained again, and "
            "agree with the recorded digests.",
        )

    def _replay(self) -> str:
        job = self.job
        self.update(status="replaying")
        labels, classes = self.dataset.test_labels, len(self.dataset.classes)
        targets = [Target.parse(text) for text in job.targets]
        own = [t for t in targets if isinstance(t, UploadedImage)]
        test = self._with_uploads(own)
        sets = [
            np.array([self.test.n + own.index(t)]) if isinstance(t, UploadedImage) else t.resolve(labels, classes)
            for t in targets
        ]
        values = phi.values(self.model, self.final, test, sets, job.function).tolist()
        resumed = self._resume_replay()
        if resumed is not None:
            done, chunk, norms, adjoint, scores = resumed
        else:
            done, adjoint = 0, phi.adjoints(self.model, self.final, test, sets, job.function)
            scores = adjoint.theta.new_zeros(len(sets), self.examples.n)
            norms = {self.steps: _norms(adjoint)}  # by the step that the adjoint stands before
            chunk = self.config.targets_per_pass or chunk_that_fits(
                bytes_per_target(self.model, self.stream.batch_shape), len(sets), self.device
            )
        self.event("phase", phase="replay", steps=self.steps, done=done)
        meter, keeper = _Meter(self, "replay", self.steps, done), _ReplayKeeper(self, chunk, norms)
        looked = {round(self.steps * i / NORMS) for i in range(NORMS)}

        def progress(done: int, adjoint: Adjoint, scores: torch.Tensor) -> None:
            meter.report(done)
            if self.steps - done in looked:
                norms[self.steps - done] = _norms(adjoint)
            if done < self.steps and done % self.keep_every == 0:
                keeper.keep(done, adjoint, scores)

        began = time.monotonic()
        scores = replay(
            self.model,
            self.stream,
            self.trajectory,
            adjoint,
            targets_per_pass=chunk,
            on_progress=progress,
            before_step=self.stop_if_cancelled,
            resume=(done, scores),
        )
        self.writer.flush()
        self._timing(
            "replay_seconds", time.monotonic() - began, resume_seconds=keeper.seconds, meter_seconds=self.looking
        )
        self.update(targets_per_pass=chunk, steps_recomputed=self.trajectory.rebuilt)
        logits = phi.logits(self.model, self.final, test)[self.test.n :].tolist() if own else []
        return self._write_scores(
            sets, scores.float().cpu().numpy(), values, norms, dict(zip(map(str, own), logits, strict=True))
        )

    def _with_uploads(self, targets: list[UploadedImage]) -> Examples:
        """The test split, and behind it one image of a person's own for each of these targets."""
        if not targets:
            return self.test
        images = np.stack([uploads.read(self.run, t.image_id) for t in targets])
        if images.shape[1:] != self.dataset.test_images.shape[1:]:
            raise DataError(
                f"An uploaded image of run {self.run.id} is not of its data set's size.", "Upload it again."
            )
        return self.test.followed_by(torch.from_numpy(images), torch.tensor([t.label for t in targets]))

    def _write_scores(self, sets, scores, values, norms, own_logits) -> str:
        run, function = self.run, self.job.function
        name = f"{function}-{len(run.score_sets()):03d}"
        folder = run.path / "scores"
        sha = self.room.write(scores.nbytes, lambda: files.write_npy(folder / f"{name}.npy", scores))
        by_target = list(zip(*norms.values(), strict=True))  # each from the last step to the first
        growth = [each[-1] / each[0] if each[0] else 0.0 for each in by_target]
        sidecar = {
            "schema": 1,
            "shape": list(scores.shape),
            "dtype": "float32",
            "sha256": sha,
            "target_function": function,
            "unit": target_function(function).unit,
            "sign": target_function(function).meaning,
            "training_digest": self.digest,
            "data_fingerprint": self.dataset.fingerprint,
            "replay_mode": self.job.mode,
            "norm_steps": list(norms),
            "targets": [
                {
                    "name": t,
                    "title": Target.parse(t).title(self.dataset),
                    "test_images": len(s),
                    "value": v,
                    "adjoint_growth": g,
                    "norms": n,
                    **({"logits": own_logits[t]} if t in own_logits else {}),
                }
                for t, s, v, g, n in zip(self.job.targets, sets, values, growth, by_target, strict=True)
            ],
        }
        self.add_files(
            {
                f"scores/{name}.npy": sha,
                f"scores/{name}.json": self.room.write(
                    SMALL, lambda: files.write_json(folder / f"{name}.json", sidecar)
                ),
            }
        )
        self.update(scored=True)
        self.event(
            "note",
            text=f"Wrote scores/{name}.npy, {scores.shape[0]} targets × "
            f"{scores.shape[1]:,} training images. From the end of training to its "
            f"start the adjoint's norm grew × {max(growth):.3g} at most.",
        )
        return name

    def _settle(self) -> None:
        """The trajectory folder holds what the manifest says is kept, and nothing else."""
        folder, mode = self.run.path / "trajectory", self.job.mode
        for name in (RESUME_TRAINING, RESUME_REPLAY):
            (folder / name).unlink(missing_ok=True)
        if mode != "memory":
            self.update(trajectory={**self.run.manifest["trajectory"], "kept": mode})
            for path in folder.glob("full-*" if mode == "disk" else "step-*"):
                path.unlink(missing_ok=True)
        if self.job.kind == "run" and self.config.clean_when_done:
            self.run.clean_held(("trajectory",))

    # -- parts

    @property
    def keep_every(self) -> int:
        return max(1, self.every // 2)

    def _reopen(self) -> None:
        """Final state and trajectory of a run trained before."""
        run, manifest = self.run, self.run.manifest
        if manifest.get("training_digest") != self.digest:
            raise IntegrityError(
                f"The configuration of run {run.id} is not the one it was trained with.",
                "Restore its config.json, or start a run with these settings.",
            )
        remedy = "Start the run again."
        state = read_state(run.path / "model" / "state.safetensors", {"training": self.digest}, remedy)
        self.final = state_of({k: t.to(self.device) for k, t in state.items()}, self.optimizer)
        recorded = files.read_json(
            run.path / "model" / "digests.json", remedy, manifest["files"].get("model/digests.json")
        )
        known = {int(t): sha for t, sha in recorded["sha256"].items()}
        self.every = recorded["every"]
        if self.job.kind not in validate.JOBS:  # they train again, and need no states
            self.trajectory = self._trajectory(Digests(self.optimizer, self.every, self.steps, known))

    def _trajectory(self, digests: Digests) -> Trajectory:
        rest = self.initial, self._forward, digests, lambda text: self.event("note", text=text)
        if self.job.mode == "recompute":
            return Checkpoints(self._disk(full=True), *rest)
        if self.job.mode == "disk":
            return EveryState(self._disk(), *rest)
        store = MemoryStore(self.optimizer)
        if self.run.manifest.get("trained") and self.run.kept == "disk":
            on_disk = EveryState(self._disk(), *rest)
            for t in reversed(range(self.steps)):
                self.stop_if_cancelled(t)
                store.put(t, on_disk.get(t))
            on_disk.close()
        return EveryState(store, *rest)

    def _disk(self, full: bool = False) -> DiskStore:
        on = devices.computed_on(self.device, torch.get_num_threads())
        return DiskStore(self.run.path / "trajectory", self.digest, self.device, self.writer, self.optimizer, full, on)

    def _forward(self, state: State, start: int, stop: int, put) -> State:
        """Steps run again; those of one segment are part of the replay, more are told of."""
        progress = None
        if stop - start > self.every:
            self.event("phase", phase="rebuild", steps=stop - start)
            meter = _Meter(self, "rebuild", stop - start)
            progress = lambda done, losses, rates: meter.report(done - start)  # noqa: E731
        return advance(
            self.model,
            self.stream,
            state,
            start,
            stop,
            put,
            progress,
            self.stop_if_cancelled,
        )

    def _resume_training(self) -> tuple[int, State, dict[int, str]]:
        found = self._read_resume(RESUME_TRAINING) if self.job.mode != "memory" else None
        if found is None:
            return 0, self.initial, {}
        tensors, header = found
        self.event("note", text=f"Resumes the training before step {int(header['step']) + 1} of {self.steps}.")
        return (
            int(header["step"]),
            state_of(tensors, self.optimizer),
            {int(t): sha for t, sha in json.loads(header["digests"]).items()},
        )

    def _resume_replay(self):
        found = self._read_resume(RESUME_REPLAY, job=_job_digest(self.job))
        if found is None:
            return None
        tensors, header = found
        scores = tensors.pop("scores")
        norms = {int(t): n for t, n in json.loads(header["norms"]).items()}
        self.event("note", text=f"Resumes the replay after {header['step']} of {self.steps} steps.")
        return int(header["step"]), int(header["chunk"]), norms, Adjoint(*state_of(tensors, self.optimizer)), scores

    def _read_resume(self, name: str, **header: str):
        path = self.run.path / "trajectory" / name
        if not path.exists():
            return None
        try:
            tensors, found = read_with_header(path, {"training": self.digest, **header}, "")
        except IntegrityError as error:
            self.event("note", text=f"{error.what} The work goes on without it.")
            return None
        return {k: t.to(self.device) for k, t in tensors.items()}, found

    def write_resume(self, name: str, tensors: dict, told=None, **header: str) -> None:
        """In the writer's thread, after all that was given to it before; `told(seconds)` it took."""
        if self._resume_written is not None:
            self._resume_written.result()
        path = self.run.path / "trajectory" / name

        def write() -> None:
            began = time.monotonic()
            write_state(path, tensors, {"training": self.digest, **header})
            if told is not None:
                told(time.monotonic() - began)

        size = sum(t.numel() * t.element_size() for t in tensors.values())
        self._resume_written = self.writer.write(size, write)

    def _check_origin(self, manifest: dict) -> None:
        if manifest.get("data_fingerprint") not in (None, self.dataset.fingerprint):
            raise DataError(
                f"The data set {self.dataset.name} has changed since run {self.run.id} was made.",
                "Restore it, or start a new run.",
            )

    def stop_if_cancelled(self, t: int) -> None:
        if self.cancel.is_set():
            raise CancelledError(
                f"Cancelled before step {t + 1} of {self.steps}.", "What was trained and scored before is kept."
            )

    # -- telling

    def meter(self, phase: str, steps: int) -> "_Meter":
        self.event("phase", phase=phase, steps=steps)
        return _Meter(self, phase, steps)

    def update(self, **fields) -> None:
        self.room.write(SMALL, lambda: self.run.update_manifest(**fields))

    def add_files(self, checksums: dict[str, str]) -> None:
        self.room.write(SMALL, lambda: self.run.add_files(checksums))

    def _timing(self, name: str, seconds: float, **others: float) -> None:
        """Seconds add up over resumed sessions; the peak is the highest of them."""
        manifest = self.run.manifest
        timings, peak = dict(manifest.get("timings", {})), dict(manifest.get("peak_bytes", {}))
        for key, value in {name: seconds, **others}.items():
            timings[key] = round(timings.get(key, 0.0) + value, 3)
        for key, value in self.peak.bytes().items():
            peak[key] = max(peak.get(key, 0), value)
        self.update(timings=timings, peak_bytes=peak)

    def event(self, kind: str, **fields) -> None:
        try:
            event = self.run.events_log.append(kind, **fields)
        except StorageError as error:
            if not error.passing:
                raise
            event = {"kind": kind, **fields}  # the log has a gap while the disk is full
        if self.on_event is not None:
            self.on_event(event)


def _norms(adjoint: Adjoint) -> list[float]:
    """Of each target, to four figures: they are for people."""
    return [float(f"{norm:.4g}") for norm in adjoint.theta.norm(dim=1).tolist()]


def _job_digest(job: Job) -> str:
    return files.json_digest([job.function, *job.targets])


class _WithResume:
    """A trajectory in training that also leaves what a killed training goes on from."""

    def __init__(self, work: _Work, digests: Digests):
        self.work, self.digests = work, digests

    def put(self, t: int, state: State) -> None:
        work = self.work
        work.trajectory.put(t, state)
        if t and t % work.keep_every == 0 and work.job.mode != "memory":
            work.write_resume(
                RESUME_TRAINING, named(state, work.optimizer), step=str(t), digests=json.dumps(self.digests.known)
            )

    def finish(self, final: State) -> None:
        self.work.trajectory.finish(final)


class _ReplayKeeper:
    """Keeps adjoint and partial scores for a killed replay, within its share of the time."""

    def __init__(self, work: _Work, chunk: int, norms: dict[int, list[float]]):
        self.work, self.chunk, self.norms = work, chunk, norms
        self.seconds, self.cost, self.kept = 0.0, 0.0, time.monotonic()

    def keep(self, done: int, adjoint: Adjoint, scores: torch.Tensor) -> None:
        now = time.monotonic()
        if self.cost > RESUME_SHARE * (now - self.kept):
            return
        self.kept = now
        self.work.write_resume(
            RESUME_REPLAY,
            {**named(adjoint, self.work.optimizer), "scores": scores.clone()},
            self._took,
            job=_job_digest(self.work.job),
            step=str(done),
            chunk=str(self.chunk),
            norms=json.dumps(self.norms),
        )

    def _took(self, seconds: float) -> None:
        self.cost = seconds
        self.seconds += seconds


class _Meter:
    """Progress events of one phase, and one at its end: few enough that looking at the meters
    takes at most `METER_SHARE` of the time."""

    def __init__(self, work: _Work, phase: str, steps: int, start: int = 0):
        self.work, self.phase, self.steps, self.losses, self.rates = work, phase, steps, [], []
        self.began = self.reported = time.monotonic()
        self.cost = 0.0  # seconds that the last look took
        self.marks = deque([(self.began, start)])  # (time, steps done), over the last RATE_OVER

    def report(self, done: int) -> None:
        now = time.monotonic()
        least, most = REPORT_EVERY
        pause = max(min(max((now - self.began) / 400, least), most), self.cost / METER_SHARE)
        if done < self.steps and now - self.reported < pause:
            return
        self.reported = now
        self.marks.append((now, done))
        while len(self.marks) > 2 and now - self.marks[1][0] > RATE_OVER:
            self.marks.popleft()
        (then, before), work = self.marks[0], self.work
        fields = {}
        if self.losses:
            fields = {
                "losses": [float(f"{v:.6g}") for v in self.losses],
                "rates": [float(f"{v:.6g}") for v in self.rates],
            }
            self.losses, self.rates = [], []
        work.event(
            "progress",
            phase=self.phase,
            step=done,
            steps=self.steps,
            rate=round((done - before) / max(now - then, 1e-9), 4),
            disk_used=files.size_of(work.run.path),
            disk_free=space.disk_free(work.run.root),
            written=files.io_counters.written - work.traffic[0],
            read=files.io_counters.read - work.traffic[1],
            **devices.usage(work.device),
            **fields,
        )
        self.cost = time.monotonic() - now
        work.looking += self.cost
