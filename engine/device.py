"""Which device computes, what it is called, what memory it has, and exact arithmetic on it."""

import contextlib
import os
import platform
import resource
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch

from engine.errors import ConfigError


def choose(name: str) -> torch.device:
    """The device of that name: "cpu", "cuda", "cuda:1" (the second GPU), or "auto", the first GPU where there is
    one, else the CPU.

    `ConfigError` for one that this machine does not have, and for kinds of devices on which nobody has shown
    that a replayed step is the trained step, such as Apple's "mps".
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise _unusable(f"«{name}» is no name of a device.", "no such device") from None
    if device.type not in ("cpu", "cuda"):
        raise _unusable(f"Nothing is computed on «{name}»: replays are exact on CPUs and CUDA GPUs.", "not supported")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise _unusable("This machine has no GPU that torch can use.", "no GPU was found")
        if device.index is not None and device.index >= torch.cuda.device_count():
            raise _unusable(f"This machine has no GPU «{name}».", f"{torch.cuda.device_count()} GPUs were found")
    return device


def _unusable(what: str, problem: str) -> ConfigError:
    return ConfigError(what, "Choose device «auto» or «cpu».", {"device": problem})


def describe(device: torch.device | None = None) -> str:
    """For people: «CPU, 2 cores (Intel …)» or the GPU's name and memory."""
    device = device or choose("auto")
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 1e9:.0f} GB"
    return f"CPU, {_cores()} cores ({_processor()})"


def _cores() -> int:
    """Those that this process may use; all of the machine's where the system cannot say (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on a device. The host does not wait for a GPU: it launches what comes next while the GPU computes."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def computed_on(device: torch.device, threads: int) -> str:
    """What decides the last bit of a state, for the headers of its files: the kind of GPU, or the number of
    `threads` that torch computes with on a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {threads} threads"


def memory_free(device: torch.device) -> int:
    """Bytes that can still be taken: GPU memory, or the machine's available RAM."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def memory_total(device: torch.device) -> int:
    """Bytes of GPU memory, or of the machine's RAM."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return psutil.virtual_memory().total


class Peak:
    """The most memory, in bytes, that this process has held since the peak was made.

    The system keeps one high-water mark a process. It is exact where it rose since then. Where it did not,
    because the process held more at an earlier time, the peak is the most that was seen when `bytes` was asked:
    too little, if memory was taken and freed between two looks.

    `reset` puts the mark down to what is held now, so that it is exact in any case. It belongs to the process:
    say so only where nothing else in it measures, as in the app and the command line, never for a caller's
    process. Where another thread computes already, or the system does not allow it, nothing is reset.
    """

    def __init__(self, device: torch.device, reset: bool = False):
        self.device = device
        if reset and not _exact_users:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
        self._marks_before, self._seen = self._marks(), self._held()

    def bytes(self) -> dict[str, int]:
        """`rss`, and `gpu` where the device is one."""
        marks, held = self._marks(), self._held()
        for name, mark in marks.items():
            rose = mark > self._marks_before[name]
            self._seen[name] = mark if rose else max(self._seen[name], held[name])
        return dict(self._seen)

    def _marks(self) -> dict[str, int]:
        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
        marks = {"rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
        with contextlib.suppress(OSError, StopIteration):  # Linux alone has one that can be reset
            lines = Path("/proc/self/status").read_text().splitlines()
            marks["rss"] = 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
        if self.device.type == "cuda":
            marks["gpu"] = torch.cuda.max_memory_allocated(self.device)
        return marks

    def _held(self) -> dict[str, int]:
        held = {"rss": psutil.Process().memory_info().rss}
        if self.device.type == "cuda":
            held["gpu"] = torch.cuda.memory_allocated(self.device)
        return held


def usage(device: torch.device) -> dict[str, int | None]:
    """Bytes: this process's and the machine's RAM, and the GPU's memory where it is used."""
    ram = psutil.virtual_memory()
    gpu = gpu_total = None
    if device.type == "cuda":
        free, gpu_total = torch.cuda.mem_get_info(device)
        gpu = gpu_total - free
    return {
        "rss": psutil.Process().memory_info().rss,
        "ram_total": ram.total,
        "ram_available": ram.available,
        "gpu": gpu,
        "gpu_total": gpu_total,
    }


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """torch's number of CPU threads within the block; None leaves it as it is.

    A sum's order, and so its last bit, depends on it: a run is replayed with the threads that it was trained
    with. The number is the process's, so it is put back afterwards, or the next run would be made with it.
    """
    before = torch.get_num_threads()
    if count is not None and count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


# No TF32; repeatable kernels, not the fastest of a trial; attention by its math kernel, the only one that has a
# forward derivative (torch 2.13), and not by the fused path of an evaluation, so that both are one function.
EXACT_FLAGS = (False, True, False, False, False, False, False, True, False)

_exact_users, _exact_mutex = [], threading.Lock()  # of this process: the flags below are its own


@contextlib.contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Full float32 products and repeatable kernels, so that a replayed step is the trained step.

    The flags are the process's: the first thread to enter sets them, the last to leave restores them.
    """
    with _exact_mutex:
        before = _exact_users[0] if _exact_users else _set_flags(EXACT_FLAGS)
        _exact_users.append(before)
    try:
        yield
    finally:
        with _exact_mutex:
            before = _exact_users.pop()
            if not _exact_users:
                _set_flags(before)


class _Products:
    """Who computes products of matrices in which way now. torch's flag is the process's: those who want the other way
    wait until the last of these has left."""

    def __init__(self) -> None:
        self.turn, self.users, self.tf32 = threading.Condition(), 0, False
        self.before: tuple[Any, Any] = (False, False)


_products = _Products()


@contextlib.contextmanager
def products(device: torch.device, tf32: bool) -> Iterator[None]:
    """Products of float32 matrices, and convolutions, on a GPU: in TF32 (10 bits of fraction) or in float32.

    For as long as kernels are launched, such as one step; blocks of the same way may lie in each other, of different
    ways not. Nothing on a CPU, which has no TF32.
    """
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    with _products.turn:
        _products.turn.wait_for(lambda: not _products.users or _products.tf32 == tf32)
        if not _products.users:
            _products.tf32, _products.before = tf32, (cudnn.allow_tf32, matmul.allow_tf32)
            cudnn.allow_tf32 = matmul.allow_tf32 = tf32
        _products.users += 1
    try:
        yield
    finally:
        with _products.turn:
            _products.users -= 1
            if not _products.users:
                cudnn.allow_tf32, matmul.allow_tf32 = _products.before
            _products.turn.notify_all()


def _set_flags(values: tuple[bool, ...]) -> tuple[bool, ...]:
    """Sets torch's flags in the order of `EXACT_FLAGS`, and returns what they were."""
    cudnn: Any = torch.backends.cudnn  # its flags are properties, which its type does not say
    cuda: Any = torch.backends.cuda
    mha: Any = torch.backends.mha
    before = (
        cudnn.allow_tf32,
        cudnn.deterministic,
        cudnn.benchmark,
        cuda.matmul.allow_tf32,
        cuda.flash_sdp_enabled(),
        cuda.mem_efficient_sdp_enabled(),
        cuda.cudnn_sdp_enabled(),
        cuda.math_sdp_enabled(),
        mha.get_fastpath_enabled(),
    )
    cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark, cuda.matmul.allow_tf32 = values[:4]
    cuda.enable_flash_sdp(values[4])
    cuda.enable_mem_efficient_sdp(values[5])
    cuda.enable_cudnn_sdp(values[6])
    cuda.enable_math_sdp(values[7])
    mha.set_fastpath_enabled(values[8])
    return before
