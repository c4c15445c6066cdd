"""A new optimizer, data set, model, target function and job are one file each: written here, registered, and used.

The files lie outside the project and are imported into a process of its own, as a person's own would be.
"""

import os
import subprocess
import sys

import pytest

from tests.helpers import ROOT

FILES = {
    "my_optimizer": '''
"""m' = 0.8 m + 0.2 g,  θ' = θ − η m': the gradient's running mean."""
import torch
from engine.config import OPTIMIZERS

class RunningMean:
    slots, replay_needs, needs_grad = ("mean",), (), False

    def init(self, theta):
        return (torch.zeros_like(theta),)

    def update(self, theta, opt, grad, inputs):
        mean = 0.8 * opt[0] + 0.2 * grad
        return theta - inputs.lr * mean, (mean,)

    def pullback(self, theta, opt, grad, inputs, adj_theta, adj_opt):
        a = adj_opt[0] - inputs.lr * adj_theta
        return adj_theta, (0.8 * a,), 0.2 * a

OPTIMIZERS.register("running-mean", lambda recipe, decay_mask_P: RunningMean())
''',
    "my_data": '''
"""Bright stripes in one of three rows, in noise."""
import numpy as np
from engine.datasets.base import Dataset
from engine.datasets.registry import register

def stripes():
    rng = np.random.default_rng(0)
    def split(n):
        labels = np.arange(n) % 3
        images = rng.integers(0, 90, (n, 8, 8, 1), dtype=np.uint8)
        images[np.arange(n), 2 * labels] += 40
        return images, labels.astype(np.int64)
    return Dataset("stripes", "Stripes", "made here", ("top", "middle", "bottom"), *split(60), *split(30))

register("stripes", stripes)
''',
    "my_model": '''
"""One layer."""
from torch import nn
from engine.config import MODELS

MODELS.register("one-layer", lambda channels, side, classes, width: nn.Sequential(
    nn.Flatten(), nn.Linear(channels * side * side, classes)
))
''',
    "my_function": '''
"""Brier's score: the squared distance of the probabilities from the label's."""
import numpy as np
import torch
from engine.core import targets as twins
from engine.targets import functions

def brier(logits_SC, labels_S):
    p = np.exp(np.asarray(logits_SC, np.float64) - np.max(logits_SC, 1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(p)), labels_S] -= 1
    return (p**2).sum(1)

functions.register(functions.TargetFunction("brier", "squared distance", 1, "Brier's score of the target.", brier))
twins.register("brier", lambda logits, labels: (
    (logits.softmax(1) - torch.nn.functional.one_hot(labels, logits.shape[1])) ** 2
).sum(1))
''',
    "my_job": '''
"""Says how many images of each class the run was trained on."""
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from engine.jobs.job import Job, Result
from engine.jobs.registry import JOBS

@dataclass(frozen=True)
class Census(Job):
    kind: ClassVar[str] = "census"
    stages: ClassVar[tuple[str, ...]] = ("prepare", "done")
    least: int = 1

    def check(self, run, dataset):
        return self

    def do(self, session):
        counts = np.bincount(session.dataset.train_labels)
        session.journal.note(f"Census: {counts[counts >= self.least].tolist()}")
        return Result()

JOBS[Census.kind] = Census
''',
}
USE = """
import my_data, my_function, my_job, my_model, my_optimizer
import numpy as np
from engine.__main__ import main
from engine.datasets import registry
from engine.jobs import execute
from engine.jobs.registry import unfinished
from engine.runs import run as runs

settings = ["dataset=stripes", "model=one-layer", "recipe.optimizer=running-mean", "recipe.batch_size=20",
            "recipe.epochs=3", "recipe.peak_lr=0.05", "replay_mode=recompute"]
call = ["run", "--targets", "test:0,class:1", "--function", "brier"]
assert main([*call, *(part for text in settings for part in ("--set", text))]) == 0
(run,) = runs.list_runs(runs.outputs_root())
scores = run.scores().matrix("brier-000")
assert scores.shape == (2, 60) and np.abs(scores).max() > 1e-4

# exact: the change that each image's weight makes, by retraining with one weight moved
import torch
from engine.core.retraining import retrain
from engine.core.stream import Stream, examples
from engine.core.targets import values
from engine.models.registry import build
config, data = run.manifest().config, registry.load("stripes")
config = config.replace(precision="float64")
model, device = build(config, data), torch.device("cpu")
train, test = (examples(data, split, device, torch.float64) for split in ("train", "test"))
for i in (0, 7, 31):
    ends = []
    for h in (1e-4, -1e-4):
        weights = torch.ones(1, 60, dtype=torch.float64)
        weights[0, i] += h
        (state,) = retrain(model, Stream(train, config.recipe), weights)
        ends.append(values(model, state, test, [[0], list(range(1, 30, 3))], "brier").numpy())
    np.testing.assert_allclose(scores[:, i], (ends[0] - ends[1]) / 2e-4, rtol=1e-3, atol=1e-7)

for call in (["attribute", run.id, "--targets", "test:all", "--function", "loss"],
             ["rebuild", run.id, "--mode", "disk"],
             ["attribute", run.id, "--targets", "test:0,class:1", "--function", "brier", "--mode", "disk"],
             ["validate", run.id, "--subsets", "5", "--drop", "0.05"],
             ["what-if", run.id, "--leave-out", "3,4"],
             ["list"], ["info", run.id]):
    assert main(call) == 0, call
assert np.array_equal(run.scores().matrix("brier-002"), scores)

with run.lock():
    execute.execute(run, my_job.Census(least=2))
assert any(e.get("text") == "Census: [20, 20, 20]" for e in run.events()[0]) and not unfinished(run)

from tests.helpers import show, tiles
for page in ("pages/Influence.py", "pages/Training_images.py", "pages/Test_images.py", "pages/Trust.py"):
    show(page, run=run.id)
show("pages/Set_up_a_run.py")
"""


@pytest.mark.slow
def test_each_new_thing_is_one_file(tmp_path):
    for name, text in FILES.items():
        (tmp_path / f"{name}.py").write_text(text)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", USE], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
