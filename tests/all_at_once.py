"""The case in which all that is drawn or remembered meets: Adam's moments, dropout, stochastic depth, augmentation and
clipping. Runs of it have the same bits in every mode, and when they are stopped and resumed: on a CPU
(tests/test_models.py) and on a GPU (tests/test_gpu.py)."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from engine.config import Recipe, RunConfig
from engine.errors import CancelledError
from engine.jobs import execute as work
from engine.jobs.resume import RESUME_REPLAY, RESUME_TRAINING
from engine.runs.run import Run

NET = """
from torch import nn
from engine.models.torchvision_models import torchvision

torchvision()
from torchvision.ops import StochasticDepth


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Dropout(0.3))
        self.depth = StochasticDepth(0.4, "row")

    def forward(self, x):
        return x + self.depth(self.inner(x))


def net(channels, height, width, classes):
    return nn.Sequential(
        nn.Conv2d(channels, 4, 4, stride=4), nn.BatchNorm2d(4), nn.GELU(), nn.Dropout2d(0.2),
        nn.Flatten(), nn.Linear(4 * (height // 4) * (width // 4), 12),
        Block(12), nn.Linear(12, classes),
    )
"""

FILES = {"train": RESUME_TRAINING, "replay": RESUME_REPLAY}

SEGMENT = 3  # steps; there are 8, of 100 images in batches of 24, two epochs


def config(folder: Path, mode: str, device: str = "cpu") -> RunConfig:
    """`folder` is where the files of the model and of the images go."""
    path, images = folder / "net.py", folder / "images.npz"
    path.write_text(NET)
    if not images.exists():
        rng = np.random.default_rng(0)
        splits = {"": 100, "test_": 20}
        arrays = {f"{split}images": rng.integers(0, 256, (n, 12, 12, 3), np.uint8) for split, n in splits.items()}
        labels = {f"{split}labels": np.arange(n) % 3 for split, n in splits.items()}
        np.savez(images, allow_pickle=False, **arrays, **labels)
    recipe = Recipe(
        epochs=2,
        batch_size=24,
        optimizer="adam",
        eps_root=1e-8,
        peak_lr=0.01,
        clip_norm=0.5,
        augment="flip,crop:2,cutout:6,rotate:10,jitter:0.2",
    )
    return RunConfig(
        preset="models",
        dataset=f"arrays:{images}",
        model=f"{path}:net",
        recipe=recipe,
        targets=("test:0", "class:2"),
        device=device,
        replay_mode=mode,
        segment=SEGMENT if mode == "recompute" else 0,
    )


class Stop(threading.Event):
    """Stops a run at the `count`-th step of a phase, once the file that it goes on from is there: a run looks at this
    before each step, and its writer has a thread of its own."""

    def __init__(self, run: Run, phase: str, count: int):
        super().__init__()
        self.phase, self.left, self.begun = phase, count, False
        self.file = run.path / "trajectory" / FILES[phase]

    def told(self, event: dict) -> None:
        self.begun |= event["kind"] == "phase" and event["phase"] == self.phase

    def is_set(self) -> bool:
        self.left -= self.begun
        if self.left > 0 or super().is_set():
            return super().is_set()
        while not self.file.exists():
            time.sleep(0.01)
        return True


def finished(root: Path, of: RunConfig, stops: tuple[tuple[str, int], ...] = ()) -> Run:
    """A run that is stopped at each of `stops`, (phase, steps of it since it began or went on), and resumed."""
    run = Run.create(root, of)
    with run.lock():
        for phase, count in stops:
            stop = Stop(run, phase, count)
            with pytest.raises(CancelledError):
                work.execute(run, cancel=stop, on_event=stop.told)
        work.execute(run)
    return run


def scores_by_mode(root: Path, folder: Path, device: str = "cpu") -> dict[str, np.ndarray]:
    """Scores [K, N] in the three modes, of which only memory's run is not stopped: the others twice in training and
    once in replay."""
    runs = {"memory": finished(root, config(folder, "memory", device))}
    for mode in ("disk", "recompute"):
        runs[mode] = finished(root, config(folder, mode, device), (("train", 5), ("train", 3), ("replay", 7)))
        texts = " ".join(str(event.get("text", "")) for event in runs[mode].events()[0])
        assert texts.count("Resumes the training") >= 2 and "Resumes the replay" in texts, texts
    return {mode: run.scores().matrix("loss-000") for mode, run in runs.items()}
