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

LONGEST_HEADER = 16 << 20  # bytes; a resume point's names the digests of all checkpoints so far


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
    """Writes atomically, and returns the SHA-256 of the whole file, for the manifest. Makes the folder where it
    is missing."""
    files.make_folder(path.parent)
    return files.write_bytes(path, _content(tensors, header))


def save_state(path: Path, tensors: dict[str, torch.Tensor], header: dict[str, str]) -> None:
    """`write_state` for states that no manifest records: their own checksum, in the header, is enough."""
    files.make_folder(path.parent)
    files.replace(path, _content(tensors, header))


def _content(tensors: dict[str, torch.Tensor], header: dict[str, str]) -> bytes:
    tensors = {k: t.detach().cpu().contiguous() for k, t in tensors.items()}
    return safetensors.torch.save(tensors, {**header, "sha256": digest_of(tensors, header)})


def read_state(
    path: Path, header: dict[str, str], remedy: str, where_named: dict[str, str] | None = None
) -> dict[str, torch.Tensor]:
    """The tensors, on the CPU; `IntegrityError` unless every entry of `header`, and the checksum, is as written.

    Entries of `where_named` are compared only where the file has them: older files have fewer.
    """
    return read_with_header(path, header, remedy, where_named)[0]


def read_with_header(
    path: Path, header: dict[str, str], remedy: str, where_named: dict[str, str] | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors, and all of the header. Arguments as of `read_state`."""
    entries = _header_of(path, remedy)
    for key, value in {**{k: v for k, v in (where_named or {}).items() if k in entries}, **header}.items():
        if entries.get(key) != value:
            raise IntegrityError(f"{path} is of another {key}: {entries.get(key)} instead of {value}.", remedy)
    try:
        with safetensors.safe_open(path, "pt") as file:
            # Clones lie where torch puts tensors: from the file's own offsets, a kernel may take
            # another path through the same sum, and the scores another rounding.
            tensors = {k: file.get_tensor(k).clone() for k in file.keys()}
    except FileNotFoundError as error:
        raise IntegrityError(f"{path} is missing.", remedy) from error
    # RuntimeError: what torch says of tensors that do not fit into memory; a state that was written did.
    except (OSError, safetensors.SafetensorError, RuntimeError, MemoryError) as error:
        raise IntegrityError(f"{path} is damaged ({error}).", remedy) from error
    if entries.pop("sha256", None) != digest_of(tensors, entries):
        raise IntegrityError(f"{path} has changed since it was written.", remedy)
    files.io_counters.add(read=sum(t.numel() * t.element_size() for t in tensors.values()))
    return tensors, entries


def _header_of(path: Path, remedy: str) -> dict[str, str]:
    """Of a regular file that begins as a safetensors file does: eight bytes with the length of a JSON object, which
    has our entries under `__metadata__`."""
    with files.open_regular(path, remedy) as file:
        try:
            length = int.from_bytes(file.read(8), "little")
            content = file.read(length) if length <= LONGEST_HEADER else b""
        except OSError as error:
            raise IntegrityError(f"{path} cannot be read ({error.strerror}).", remedy) from error
    if not 0 < length == len(content):
        raise IntegrityError(f"{path} is damaged (its header is cut or too long).", remedy)
    header = files.parse_json(content, str(path), remedy)
    entries = header.get("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(entries, dict) or not all(isinstance(value, str) for value in entries.values()):
        raise IntegrityError(f"{path} is damaged (its header is no safetensors header).", remedy)
    return entries


def digest_of(tensors: dict[str, torch.Tensor], header: dict[str, str] | None = None) -> str:
    """SHA-256 over names, types, shapes and values, and over a file's header where given."""
    digest = hashlib.sha256(repr(sorted((header or {}).items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if math.prod(tensor.shape):
            digest.update(tensor.view(torch.uint8).numpy().data)
    return digest.hexdigest()
