"""Files of states: tensors with a checksum and a header."""

import hashlib
import math
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from engine import files
from engine.core.optim.base import Optimizer
from engine.core.state import Adjoint, State
from engine.errors import IntegrityError

HEADER = 512  # bytes of a file beside its tensors: names, shapes, digests


def for_replay(state: State, optimizer: Optimizer) -> State:
    """The state with only those slots that a step backwards reads; the others empty."""
    slots = enumerate(state.opt)
    opt = tuple(part if i in optimizer.replay_needs else part.new_empty(0) for i, part in slots)
    return State(state.theta, opt, state.buffers)


def named(state: State | Adjoint, optimizer: Optimizer) -> dict[str, torch.Tensor]:
    """What files and digests call the parts: theta, the optimizer's slots, buffers."""
    return {"theta": state.theta, **dict(zip(optimizer.slots, state.opt, strict=True)), "buffers": state.buffers}


def file_tensors(state: State, optimizer: Optimizer, full: bool) -> dict[str, torch.Tensor]:
    """The named tensors of a state's file: all, or what a step backwards reads."""
    needs = {"theta", "buffers", *(optimizer.slots[i] for i in optimizer.replay_needs)}
    return {name: part for name, part in named(state, optimizer).items() if full or name in needs}


def state_of(tensors: dict[str, torch.Tensor], optimizer: Optimizer) -> State:
    """The inverse of `named` and `file_tensors`; slots that are not there are empty."""
    theta = tensors["theta"]
    return State(theta, tuple(tensors.get(slot, theta.new_empty(0)) for slot in optimizer.slots), tensors["buffers"])


def bytes_of(tensors: dict[str, torch.Tensor]) -> int:
    """On disk, header included."""
    return sum(part.numel() * part.element_size() for part in tensors.values()) + HEADER


def write_state(path: Path, tensors: dict[str, torch.Tensor], header: dict[str, str]) -> str:
    """Writes atomically, and returns the SHA-256 of the whole file."""
    tensors = {k: t.detach().cpu().contiguous() for k, t in tensors.items()}
    content = safetensors.torch.save(tensors, {**header, "sha256": digest_of(tensors, header)})
    return files.write_bytes(path, content)


def read_state(path: Path, header: dict[str, str], remedy: str) -> dict[str, torch.Tensor]:
    """The tensors, on the CPU; every entry of `header` and the checksum must be as written."""
    return read_with_header(path, header, remedy)[0]


def read_with_header(path: Path, header: dict[str, str], remedy: str) -> tuple[dict, dict[str, str]]:
    """The tensors, and all of the header."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            found = file.metadata() or {}
            # Clones lie where torch puts tensors: from the file's own offsets, a kernel may take
            # another path through the same sum, and the scores another rounding.
            tensors = {k: file.get_tensor(k).clone() for k in file.keys()}
    except FileNotFoundError as error:
        raise IntegrityError(f"{path} is missing.", remedy) from error
    except (OSError, safetensors.SafetensorError) as error:
        raise IntegrityError(f"{path} is damaged ({error}).", remedy) from error
    for key, value in header.items():
        if found.get(key) != value:
            raise IntegrityError(f"{path} is of another {key}: {found.get(key)} instead of {value}.", remedy)
    if found.pop("sha256", None) != digest_of(tensors, found):
        raise IntegrityError(f"{path} has changed since it was written.", remedy)
    files.io_counters.add(read=sum(t.numel() * t.element_size() for t in tensors.values()))
    return tensors, found


def digest_of(tensors: dict[str, torch.Tensor], header: dict[str, str] | None = None) -> str:
    """SHA-256 over names, types, shapes and values, and over a file's header where given."""
    digest = hashlib.sha256(repr(sorted((header or {}).items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if math.prod(tensor.shape):
            digest.update(tensor.view(torch.uint8).numpy())
    return digest.hexdigest()
