"""Devices, threads and peaks: what is the process's is left as it was."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine import device
from engine.errors import ConfigError

ROOT = Path(__file__).parents[1]
MB = 1 << 20


@pytest.mark.parametrize("name", ["mps", "xpu", "meta", "gpu", "cuda:99", "", "cpu:one"])
def test_a_device_that_is_not_there_or_not_exact_is_named_with_its_remedy(name):
    with pytest.raises(ConfigError) as error:
        device.choose(name)
    assert "auto" in error.value.remedy and "device" in error.value.problems


def test_auto_is_a_device_that_is_there():
    assert device.choose("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert "cores" in device.describe(torch.device("cpu"))


def test_a_system_without_affinity_counts_all_cores(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert device.describe(torch.device("cpu")).startswith(f"CPU, {os.cpu_count()} cores")


@pytest.mark.parametrize("fails", [False, True])
def test_a_thread_count_lasts_as_long_as_its_block(fails):
    before = torch.get_num_threads()
    other = before + 1
    with pytest.raises(KeyError) if fails else device.threads(None):
        with device.threads(other):
            assert torch.get_num_threads() == other
            with device.threads(None):
                assert torch.get_num_threads() == other
            if fails:
                raise KeyError
    assert torch.get_num_threads() == before


HEAD = """
import torch
from pathlib import Path
from engine import device
MB, cpu = 1 << 20, torch.device("cpu")
def mark():
    return next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
"""


def in_a_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", HEAD + code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_peak_leaves_the_mark_of_the_process_alone_unless_it_is_told_to_reset_it():
    said = in_a_process(
        """
block = bytearray(300 * MB); del block
before = mark()
peak = device.Peak(cpu)
held = bytearray(100 * MB)
least = peak.bytes()["rss"]                 # below the mark of before: what is seen
assert mark() == before, "the mark was reset"
more = bytearray(400 * MB); del more
assert peak.bytes()["rss"] >= least + 390 * MB     # above it: exact
mine = device.Peak(cpu, reset=True)
assert mine.bytes()["rss"] < peak.bytes()["rss"] - 300 * MB
some = bytearray(50 * MB); del some
print(mine.bytes()["rss"] - least)
"""
    )
    assert 40 * MB < int(said) < 70 * MB
