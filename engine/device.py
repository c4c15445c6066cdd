"""Which device computes, what it is called, what memory it has, and exact arithmetic on it."""

import contextlib
import os
import platform
import resource
import threading
from pathlib import Path

import psutil
import torch

from engine.errors import ConfigError


def choose(name: str) -> torch.device:
    """«auto» is the first GPU where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "This machine has no GPU that torch can use.",
            "Choose device «auto» or «cpu».",
            {"device": "no GPU was found"},
        )
    return torch.device(name)


def describe(device: torch.device | None = None) -> str:
    """For people: «CPU, 2 cores (Intel …)» or the GPU's name and memory."""
    device = device or choose("auto")
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 1e9:.0f} GB"
    return f"CPU, {len(os.sched_getaffinity(0))} cores ({_processor()})"


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


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
    """The most memory, in bytes, that this process has held since the peak was made; where other
    work was under way then, since that began."""

    def __init__(self, device: torch.device):
        self.device = device
        if _exact_users:
            return
        # The kernel's high-water mark begins anew; where it may not, it is the process's own.
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def bytes(self) -> dict[str, int]:
        peak = {"rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
        with contextlib.suppress(OSError, StopIteration):
            lines = Path("/proc/self/status").read_text().splitlines()
            mark = next(line for line in lines if line.startswith("VmHWM:"))
            peak["rss"] = int(mark.split()[1]) * 1024
        if self.device.type == "cuda":
            peak["gpu"] = torch.cuda.max_memory_allocated(self.device)
        return peak


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


_exact_users, _exact_mutex = [], threading.Lock()  # of this process: the flags below are its own


@contextlib.contextmanager
def exact_arithmetic():
    """Full float32 products and repeatable kernels, so that a replayed step is the trained step.

    The flags are the process's: the first thread to enter sets them, the last to leave restores them.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    with _exact_mutex:
        if not _exact_users:
            before = cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark, matmul.allow_tf32
            cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = False, True, False
            matmul.allow_tf32 = False
        else:
            before = _exact_users[0]
        _exact_users.append(before)
    try:
        yield
    finally:
        with _exact_mutex:
            before = _exact_users.pop()
            if not _exact_users:
                cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark, matmul.allow_tf32 = before
