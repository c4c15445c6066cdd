"""What a new user meets first: the sample explains mistakes, what is promised in time is measured, and jobs yield to
pages."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from engine import config
from engine.datasets import registry as dataset_registry
from engine.errors import ConfigError
from engine.jobs import queue, speed
from engine.jobs.queue import JobQueue
from engine.jobs.replay import Replay
from engine.runs import run as runs
from tests.helpers import ROOT, show, sound, wait_for
from tools import sample_targets

# -- the sample's targets


@pytest.mark.slow
@pytest.mark.parametrize("name", sample_targets.NAMES)
def test_the_sample_asks_what_the_rule_finds_in_its_own_training(name):
    preset = config.preset(name)
    dataset = dataset_registry.load(preset.dataset)
    targets, lines = sample_targets.choice(sample_targets.trained_logits(preset), dataset.test_labels)
    assert targets == preset.targets, (
        f"On this machine the preset «{name}» trains a model whose surest mistakes, close call and first right answer "
        f"are {targets}, and engine/config.py ships {preset.targets}. If its images, recipe or network were changed, "
        "copy what `python -m tools.sample_targets` prints; if not, a training has other bits than it had: "
        f"{list(zip(targets, lines, strict=True))}"
    )


def test_the_rule_takes_mistakes_by_sureness_then_the_closest_and_the_first_right_answer():
    """Nine images of three classes, all of label 0: by hand."""
    p = np.full((9, 3), 0.05)
    p[:6, 1] = (0.6, 0.9, 0.7, 0.8, 0.95, 0.5)  # mistakes: 4, 1, 3, 2, 0 are the surest five; 5 is left
    p[6:, 0] = (0.9, 0.51, 0.7)
    p[7, 2] = 0.49
    logits = np.log(p / p.sum(1, keepdims=True)).astype(np.float32)
    targets, lines = sample_targets.choice(logits, np.zeros(9, np.int64))
    assert targets == (*(f"test:{i}" for i in (4, 1, 3, 2, 0, 7, 6)), "test:all") and len(lines) == len(targets)
    assert sample_targets.choice(logits[:, [1, 0, 2]], np.ones(9, np.int64))[0] == targets, "labels, not columns"


# -- the time that is promised

MEASURED = speed.CALL  # before tests/conftest.py puts another in its place


@pytest.fixture
def brief(quick) -> config.RunConfig:
    """A configuration whose steps take a moment."""
    return quick.manifest().config


@pytest.mark.slow
def test_a_time_is_measured_on_this_machine_and_kept(quick, brief, monkeypatch):
    monkeypatch.setattr(speed, "CALL", MEASURED)
    jobs = JobQueue(quick.root)
    assert speed.known(quick.root, brief) is None
    jobs.calibrate(brief)
    while (seconds := speed.known(quick.root, brief)) is None:
        assert brief not in jobs._not_measurable
        time.sleep(0.01)
    assert 0 < seconds < 600
    assert [run.id for run in runs.list_runs(quick.root)] == [quick.id], "what is kept is no run"
    assert speed.known(quick.root, brief.replace(targets=("test:0",))) is None, "fewer targets take less time"
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    assert speed.known(quick.root, brief) is None, "a folder that was copied says nothing of this machine"


def test_what_cannot_be_measured_is_asked_for_once(root):
    """A process that ends without a word, as where torch cannot be loaded."""
    preset = config.preset("sample")
    with pytest.raises(ConfigError, match="could not be measured"):
        speed.measure(root, preset)
    jobs = JobQueue(root)
    jobs.calibrate(preset)
    while queue._worker.calibrations(jobs.root):
        time.sleep(0.01)
    assert jobs._not_measurable == {preset}
    jobs.calibrate(preset)
    assert not queue._worker.calibrations(jobs.root)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"seconds": "1"}', '{"seconds": -1}', '{"seconds": NaN}'])
def test_a_time_that_is_damaged_is_unknown(root, content):
    preset = config.preset("sample")
    path = speed._path(root, preset)
    path.parent.mkdir()
    path.write_text(content)
    assert speed.known(root, preset) is None


def test_the_overview_says_a_range_until_the_time_is_known_and_then_the_time(root, monkeypatch):
    asked = []
    monkeypatch.setattr(JobQueue, "calibrate", lambda self, preset: asked.append(preset))
    app = show("app.py")
    assert asked and set(asked) == {config.preset("sample")}
    assert any("It takes 1 to 3 minutes on 2 CPU cores" in caption.value for caption in app.caption)
    path = speed._path(root, config.preset("sample"))
    path.parent.mkdir()
    path.write_text('{"seconds": 61.2}')
    assert any("It takes about 1 min 05 s on this machine" in c.value for c in sound(app.run()).caption)


@pytest.mark.slow
def test_a_measurement_gives_way_to_a_job_and_is_asked_for_once(quick, brief, monkeypatch):
    """The measurement never ends by itself."""
    monkeypatch.setattr(speed, "CALL", [sys.executable, "-c", "import threading; threading.Event().wait()"])
    jobs, begun, exact = JobQueue(quick.root), [], subprocess.Popen

    def begin(*args, **kwargs):
        begun.append(exact(*args, **kwargs))
        return begun[-1]

    monkeypatch.setattr(subprocess, "Popen", begin)
    for _ in range(2):
        jobs.calibrate(brief)
    while not begun:
        time.sleep(0.01)
    assert jobs.active() == [] and begun[0].poll() is None
    jobs.calibrate(brief)
    jobs.submit(quick.id, Replay(("test:3",)))
    wait_for(jobs)
    assert len(begun) == 1 and begun[0].poll() is not None
    assert speed.known(quick.root, brief) is None and brief not in jobs._not_measurable
    assert "test:3.loss" in {target.key for target in quick.scores().targets()}


# -- jobs yield to pages

BESIDE = """
import os, sys, threading
from pathlib import Path

import numpy as np
import torch

from engine.jobs import execute as work
from engine.jobs import queue
from engine.runs.run import Run

config = Run.open(Path(sys.argv[1]), sys.argv[2]).manifest().config
root, own = Path(sys.argv[1]), os.getpriority(os.PRIO_PROCESS, 0)
torch.ones(64, 64) @ torch.ones(64, 64)  # a thread of a page's that computes
jobs = queue.JobQueue(root)
run = Run.create(root, config, "behind")
jobs._enqueue(run, None)
for held in queue._worker.held(root):
    held.released.wait()
worker = queue._worker._thread.native_id
priorities = {int(i): os.getpriority(os.PRIO_PROCESS, int(i)) - own for i in os.listdir("/proc/self/task")}
print(run.manifest().threads, sum(map(bool, priorities.values())), priorities[worker], priorities[os.getpid()])
again = Run.create(root, config, "alone")
with again.lock():
    work.execute(again)
scores = [each.scores().matrix("loss-000") for each in (run, again)]
print(np.array_equal(*scores), bool(np.abs(scores[0]).sum() > 0))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are Linux's")
def test_a_job_and_the_threads_that_compute_for_it_stand_behind_pages(quick):
    """In a process of its own, whose torch has two threads; the same scores as without a worker, bit for bit."""
    call = [sys.executable, "-c", BESIDE, str(quick.root), quick.id]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (threads, lower, worker, main), same = (line.split() for line in done.stdout.splitlines())
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert (threads, worker, main) == ("2", str(min(19, own + queue.BEHIND) - own), "0") and int(lower) >= 2
    assert same == ["True", "True"]
