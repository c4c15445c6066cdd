"""On what a process computes, in words that can be compared: what must be one kind within a set of retrainings."""

import platform
import re
import socket
from pathlib import Path

import numpy as np
import safetensors
import torch

from engine import device as devices
from engine.errors import ConfigError

DRIVER = Path("/proc/driver/nvidia/version")  # its first line names the version of the kernel's module


def kind(device: torch.device) -> str:
    """The kind of GPU with its memory, or the kind of CPU with the cores that this process may use."""
    return devices.describe(device)


def driver(device: torch.device) -> str | None:
    """The version of the GPU's driver, such as 580.159.04; None on a CPU, or where the system does not say it."""
    if device.type != "cuda":
        return None
    try:
        found = re.search(r"\b\d+\.\d+(\.\d+)*\b", DRIVER.read_text(errors="replace"))
    except OSError:
        return None
    return found[0] if found else None


def versions() -> dict[str, str]:
    """Of Python and the libraries, as a manifest has them."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "safetensors": safetensors.__version__,
    }


def instructions(device: torch.device) -> dict[str, str]:
    """Of a CPU, beside the versions: the vector instructions that torch computes with. Processors of one name differ in
    them, as virtual machines do, and then round otherwise. Empty on a GPU."""
    return {"instructions": torch.backends.cpu.get_cpu_capability()} if device.type == "cpu" else {}


def host() -> str:
    return socket.gethostname()


def check_one_kind(ours: str, theirs: str, who: str) -> None:
    """Raises `ConfigError`, with both names, where `who` computed on another kind than this process."""
    if ours != theirs:
        raise ConfigError(
            f"{who} was computed on {theirs}, and this process computes on {ours}: results of two kinds are not mixed, "
            "for their last bits differ, and retrainings that are not smooth differ by more.",
            f"Go on where there is {theirs}, or delete what was computed there and compute all of it here.",
        )
