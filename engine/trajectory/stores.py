"""Where states are put: in memory, or on disk as one safetensors file each.

A step that is only replayed needs its parameters and buffers, and the optimizer's slots that its
pullback reads (SGD's reads none); a step that training can go on from needs all of the state. `full`
says which.

A file's header names the step, the digest of the training that made it and the SHA-256 of all
this and its tensors, so a file that is missing, cut, changed, swapped or of another run is found out when it
is read, and nothing is ever put in its place. Files are written by one thread in the order given
and read ahead by another; both hold a bounded number of bytes.
"""

from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from engine.core.optim.base import Optimizer
from engine.core.state import State
from engine.errors import IntegrityError
from engine.trajectory.background import Background
from engine.trajectory.state_files import bytes_of, file_tensors, for_replay, read_state, state_of, write_state
from engine.trajectory.writer import Writer

BLOCK = 64 << 20  # bytes of states side by side in memory: glibc maps such a block by itself

AHEAD = 3  # states read before they are asked for


class Store(Protocol):
    """States by the number of the step that they stand before."""

    def put(self, t: int, state: State) -> None: ...
    def get(self, t: int) -> State: ...  # IntegrityError where it is not as it was put
    def flush(self) -> None: ...  # returns once all is kept
    def close(self) -> None: ...


class MemoryStore:
    """Keeps copies on the states' device, many to a block.

    Kept as they are, small states would lie between the large buffers that a pass frees and stop
    the allocator from using their space again: 14 MB of states made a process 110 MB larger.
    """

    def __init__(self, optimizer: Optimizer, full: bool = False):
        self.optimizer, self.full = optimizer, full
        self._places: dict[int, tuple[torch.Tensor, list[int]]] = {}
        self._block, self._used = None, 0

    def put(self, t: int, state: State) -> None:
        parts = (state if self.full else for_replay(state, self.optimizer)).parts
        sizes = [part.numel() for part in parts]
        if self._block is None or self._used == len(self._block):
            each = sum(sizes) * parts[0].element_size()
            self._block, self._used = parts[0].new_empty(max(1, BLOCK // each), sum(sizes)), 0
        row = self._block[self._used]
        torch.cat(parts, out=row)
        self._used += 1
        self._places[t] = row, sizes

    def get(self, t: int) -> State:
        if t not in self._places:
            raise IntegrityError(f"Step {t} is not in memory.", "Train again up to this step.")
        row, sizes = self._places[t]
        theta, *opt, buffers = (part.clone() for part in row.split(sizes))  # aligned, as kernels like it
        return State(theta, tuple(opt), buffers)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self._places.clear()
        self._block = None


class DiskStore:
    """`digest` names the training; states come back on `device`."""

    def __init__(
        self,
        folder: Path,
        digest: str,
        device: torch.device,
        writer: Writer,
        optimizer: Optimizer,
        full: bool = False,
    ):
        self.folder, self.digest, self.device, self.writer = Path(folder), digest, device, writer
        self.optimizer, self.full = optimizer, full
        self._pool = Background("replay-reader")
        self._coming: dict[int, Future] = {}

    def path(self, t: int) -> Path:
        return self.folder / f"{'full' if self.full else 'step'}-{t:07d}.safetensors"

    def put(self, t: int, state: State) -> None:
        tensors = file_tensors(state, self.optimizer, self.full)
        self.writer.write(bytes_of(tensors), lambda: write_state(self.path(t), tensors, self._header(t)))

    def get(self, t: int) -> State:
        """Also begins to read the steps before t, which a replay asks for next."""
        coming = self._coming.pop(t, None) or self._pool.submit(partial(self._read, t))
        if not self.full:
            wanted = range(t - 1, max(t - 1 - AHEAD, -1), -1)
            self._coming = {s: self._coming.get(s) or self._pool.submit(partial(self._read, s)) for s in wanted}
        try:
            tensors = coming.result()
        except BaseException:
            self._coming = {}  # what is made again must be read again
            raise
        return state_of({k: tensor.to(self.device) for k, tensor in tensors.items()}, self.optimizer)

    def flush(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self._pool.close()

    def _read(self, t: int) -> dict[str, torch.Tensor]:
        return read_state(self.path(t), self._header(t), "Rebuild the checkpoints of this run.")

    def _header(self, t: int) -> dict[str, str]:
        return {"step": str(t), "training": self.digest}
