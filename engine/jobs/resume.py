"""What a killed job goes on from: one file beside the trajectory, replaced whole.

    resume-training    the full state, once all states before it are on disk; memory mode, which
                       loses those with its process, trains again instead
    resume-replay      adjoint and partial scores; less often where writing them would take more
                       than `RESUME_SHARE` of the time

Both are written twice a segment (`segment_length` steps), each waiting for the one before: with one
of them still on its way to the disk, a kill loses at most a segment.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from engine import files
from engine.core.optim.base import Optimizer
from engine.core.state import Adjoint, Recorder, State
from engine.errors import IntegrityError
from engine.jobs.norms import Norms
from engine.trajectory.digests import Digests
from engine.trajectory.state_files import named, read_with_header, state_of, write_state
from engine.trajectory.writer import Writer

RESUME_SHARE = 0.03  # of the time, at most, for writing what a killed replay goes on from

RESUME_TRAINING, RESUME_REPLAY = "resume-training.safetensors", "resume-replay.safetensors"

RESUME_PARTS = "resume-replay-{}_*.safetensors"  # of a set that is done in parts, each with its rows in its name


class ResumePoint:
    """One file. `training` is the training's digest: a point of another one is never gone on from. `check` raises where
    what was computed is not to be kept."""

    def __init__(self, path: Path, training: str, writer: Writer, check: Callable[[], None] = lambda: None):
        self.path, self.training, self._writer, self._written = path, training, writer, None
        self._check = check

    def load(self, device: torch.device, **header: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """The tensors and the header, None where there is none. Raises `IntegrityError` where the file is damaged,
        or its header is not of `header`."""
        if not os.path.lexists(self.path):
            return None
        tensors, found = read_with_header(self.path, {"training": self.training, **header}, "")
        return {name: tensor.to(device) for name, tensor in tensors.items()}, found

    def save(self, tensors: dict[str, Tensor], header: dict[str, str], on_saved: Callable | None = None) -> None:
        """Written in the writer's thread, after all that was given to it before; waits for the one before this.
        `on_saved(seconds)` is told what the writing took."""
        if self._written is not None:
            self._written.result()
        self._check()

        def write() -> None:
            began = time.monotonic()
            write_state(self.path, tensors, {"training": self.training, **header})
            if on_saved is not None:
                on_saved(time.monotonic() - began)

        size = sum(t.numel() * t.element_size() for t in tensors.values())
        self._written = self._writer.write(size, write)

    def delete(self) -> None:
        files.remove_inside(self.path.parent, self.path)


def load_training(
    point: ResumePoint, device: torch.device, optimizer: Optimizer
) -> tuple[int, State, dict[int, str]] | None:
    """The step to go on from, the state before it, and the digests until there."""
    found = point.load(device)
    if found is None:
        return None
    tensors, header = found
    digests = {int(t): sha for t, sha in json.loads(header["digests"]).items()}
    return int(header["step"]), state_of(tensors, optimizer), digests


class WithResume:
    """A trajectory in training that also leaves, every `every` steps, what a killed training goes on from."""

    def __init__(self, trajectory: Recorder, point: ResumePoint, every: int, digests: Digests):
        self.trajectory, self.point, self.every, self.digests = trajectory, point, every, digests

    def put(self, t: int, state: State) -> None:
        self.trajectory.put(t, state)
        if t and t % self.every == 0:
            tensors = named(state, self.digests.optimizer)
            self.point.save(tensors, {"step": str(t), "digests": json.dumps(self.digests.known)})

    def finish(self, final: State) -> None:
        self.trajectory.finish(final)


def load_replay(
    point: ResumePoint, device: torch.device, optimizer: Optimizer, job: str
) -> tuple[int, int, Norms, Adjoint, Tensor] | None:
    """Steps done, targets a pass, norms by step, the adjoint before those steps, and the scores [K, N] so far.
    `job` is the digest of the targets and their function."""
    found = point.load(device, job=job)
    if found is None:
        return None
    tensors, header = found
    scores = tensors.pop("scores")
    norms = {int(t): n for t, n in json.loads(header["norms"]).items()}
    return int(header["step"]), int(header["chunk"]), norms, Adjoint(*state_of(tensors, optimizer)), scores


class ReplayKeeper:
    """Saves adjoint and partial scores for a killed replay, within its share of the time."""

    def __init__(self, point: ResumePoint, optimizer: Optimizer, job: str, chunk: int, norms: Callable[[], Norms]):
        self.point, self.optimizer, self.job, self.chunk, self.norms = point, optimizer, job, chunk, norms
        self.seconds, self._cost, self._saved = 0.0, 0.0, time.monotonic()

    def save(self, done: int, adjoint: Adjoint, scores: Tensor) -> None:
        now = time.monotonic()
        if self._cost > RESUME_SHARE * (now - self._saved):
            return
        self._saved = now
        header = {"job": self.job, "step": str(done), "chunk": str(self.chunk), "norms": json.dumps(self.norms())}
        self.point.save({**named(adjoint, self.optimizer), "scores": scores.clone()}, header, self._took)

    def _took(self, seconds: float) -> None:
        self._cost = seconds
        self.seconds += seconds


def intact(load: Callable, note: Callable[[str], None]):
    """What `load()` gives; where its file is damaged, None, and `note` says that the work goes on without it."""
    try:
        return load()
    except IntegrityError as error:
        note(f"{error.what} The work goes on without it.")
        return None
