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
from pathlib import Path
from typing import Protocol

import torch

from engine.core.optim.base import Optimizer
from engine.core.state import State
from engine.device import sent
from engine.errors import IntegrityError
from engine.trajectory.background import Background
from engine.trajectory.state_files import bytes_of, file_tensors, for_replay, read_state, save_state, state_of
from engine.trajectory.writer import Writer

BLOCK = 64 << 20  # bytes of states side by side in memory: glibc maps such a block by itself

AHEAD = 3  # states read before they are asked for


class Store(Protocol):
    """States by the number of the step that they stand before."""

    def put(self, t: int, state: State) -> None:
        """Keeps the state before step `t`, in place of one that is kept already. May return before it is kept, and
        raise what an earlier `put` failed with (`StorageError`, `CancelledError`)."""
        ...

    def get(self, t: int) -> State:
        """The state before step `t` as it was put, on the store's device; slots that are not kept are empty.
        Raises `IntegrityError` where it is missing or is not as it was put. After a `put` of `t`, only once
        `flush` has returned. Steps are asked for from the last to the first where speed matters."""
        ...

    def flush(self) -> None:
        """Returns once all that was put is kept; raises what keeping it failed with."""
        ...

    def close(self) -> None:
        """Gives up memory and threads; nothing is asked for afterwards."""
        ...


class MemoryStore:
    """Keeps copies on the states' device, many to a block; `full`: all of each state.

    For trainings whose T states fit beside the batch (4 (P + Q) bytes a step in float32; estimate it first). Not for
    what should outlive the process.

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
    """Keeps each state as one file in a folder, which is made where it is missing.

    For trainings whose states do not fit into memory, or should outlive the process: 4 (P + Q) bytes a step on the
    disk in float32 (4 times (2 P + Q) for full states of SGD), memory for four states. Not on a disk that is slower
    than the training: the run then waits for it.

    `folder`      on the disk; no link
    `digest`      names the training: files of another one are refused
    `device`      where states come back
    `writer`      whose thread writes the files, in the order of the puts
    `optimizer`   names the slots
    `full`        keep all of each state, as training needs it to go on; else what a replay reads
    `computed_on` what the training was computed on (`engine.device.computed_on`): files that say that they were
                  computed on something else are refused, for their last bits differ; "" does not compare
    """

    def __init__(
        self,
        folder: Path,
        digest: str,
        device: torch.device,
        writer: Writer,
        optimizer: Optimizer,
        full: bool = False,
        computed_on: str = "",
    ):
        self.folder, self.digest, self.device, self.writer = Path(folder), digest, device, writer
        self.optimizer, self.full = optimizer, full
        self._computed_on = {"device": computed_on} if computed_on else {}
        self._ahead = 0 if full else AHEAD  # full states are asked for with gaps
        self._thread = Background("replay-reader")
        self._coming: dict[int, Future] = {}

    def path(self, t: int) -> Path:
        """Where the state before step `t` is."""
        return self.folder / f"{'full' if self.full else 'step'}-{t:07d}.safetensors"

    def put(self, t: int, state: State) -> None:
        tensors, header = file_tensors(state, self.optimizer, self.full), {**self._header(t), **self._computed_on}
        self._coming.pop(t, None)  # read before it was put
        self.writer.write(bytes_of(tensors), lambda: save_state(self.path(t), tensors, header))

    def get(self, t: int) -> State:
        """Also begins to read the steps before t, which a replay asks for next."""
        coming = self._coming.pop(t, None) or self._read(t)
        wanted = range(t - 1, max(t - 1 - self._ahead, -1), -1)
        self._coming = {s: self._coming.get(s) or self._read(s) for s in wanted}
        return state_of({k: sent(tensor, self.device) for k, tensor in coming.result().items()}, self.optimizer)

    def flush(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self._thread.close()

    def _read(self, t: int) -> "Future[dict[str, torch.Tensor]]":
        remedy = "Rebuild the checkpoints of this run."
        return self._thread.submit(
            lambda: read_state(self.path(t), self._header(t), remedy, where_named=self._computed_on)
        )

    def _header(self, t: int) -> dict[str, str]:
        return {"step": str(t), "training": self.digest}
