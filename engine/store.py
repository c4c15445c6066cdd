"""Trajectories: the state before each step, kept in memory or on disk.

`put(t, state)` while training, `get(t)` while replaying, for t from 0 to T − 1. SGD goes
backwards without its momentum, so parameters and buffers are all that is kept.

On disk a step is one safetensors file. Its header names the step, the digest of the training
that made it and the SHA-256 of its tensors, so a file that is missing, cut, changed or of
another run is found out when it is read, and nothing is ever put in its place.
"""

import hashlib
import math
from pathlib import Path
from typing import Protocol

import safetensors
import safetensors.torch
import torch

from engine import files
from engine.errors import IntegrityError
from engine.state import State

TRAIN_AGAIN = "Start the run again with the same settings: it trains to the same states."


class Trajectory(Protocol):
    def put(self, t: int, state: State) -> None: ...
    def get(self, t: int) -> State: ...


class MemoryTrajectory:
    """Keeps the states themselves, on their device; steps return new tensors, so none is copied."""

    def __init__(self):
        self._states: dict[int, State] = {}

    def put(self, t: int, state: State) -> None:
        self._states[t] = State(state.theta, state.theta.new_empty(0), state.buffers)

    def get(self, t: int) -> State:
        if t not in self._states:
            raise IntegrityError(f"Step {t} is missing from the trajectory in memory.", TRAIN_AGAIN)
        return self._states[t]


class DiskTrajectory:
    def __init__(self, folder: Path, digest: str, device: torch.device):
        self.folder, self.digest, self.device = Path(folder), digest, device

    def path(self, t: int) -> Path:
        return self.folder / f"step-{t:07d}.safetensors"

    def put(self, t: int, state: State) -> None:
        write_state(self.path(t), {"theta": state.theta, "buffers": state.buffers},
                    {"step": str(t), "training": self.digest})

    def get(self, t: int) -> State:
        tensors = read_state(self.path(t), {"step": str(t), "training": self.digest}, TRAIN_AGAIN)
        theta, buffers = tensors["theta"].to(self.device), tensors["buffers"].to(self.device)
        return State(theta, theta.new_empty(0), buffers)

    def missing(self, steps: int) -> list[int]:
        return [t for t in range(steps) if not self.path(t).is_file()]


def write_state(path: Path, tensors: dict[str, torch.Tensor], header: dict[str, str]) -> str:
    """Writes atomically, and returns the SHA-256 of the whole file."""
    tensors = {k: t.detach().cpu().contiguous() for k, t in tensors.items()}
    content = safetensors.torch.save(tensors, {**header, "sha256": _digest(tensors)})
    return files.write_bytes(path, content)


def read_state(path: Path, header: dict[str, str], remedy: str) -> dict[str, torch.Tensor]:
    """The tensors, on the CPU; every entry of `header` and the checksum must be as written."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            found = file.metadata() or {}
            tensors = {k: file.get_tensor(k) for k in file.keys()}
    except FileNotFoundError as error:
        raise IntegrityError(f"{path} is missing.", remedy) from error
    except (OSError, safetensors.SafetensorError) as error:
        raise IntegrityError(f"{path} is damaged ({error}).", remedy) from error
    for key, value in header.items():
        if found.get(key) != value:
            raise IntegrityError(f"{path} is of another {key}: {found.get(key)} instead of {value}.",
                                 remedy)
    if found.get("sha256") != _digest(tensors):
        raise IntegrityError(f"{path} has changed since it was written.", remedy)
    return tensors


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if math.prod(tensor.shape):
            digest.update(tensor.view(torch.uint8).numpy())
    return digest.hexdigest()
