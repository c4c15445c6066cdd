"""*Live*, and what jobs tell of themselves: what runs, how long it takes in all, and what came of it."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engine.core.state import State
from engine.core.stream import Examples
from engine.datasets import registry as datasets
from engine.errors import CancelledError
from engine.jobs import accuracy, ahead
from engine.jobs import execute as work
from engine.jobs.rebuild import Rebuild
from engine.jobs.registry import JOBS, from_record
from engine.jobs.replay import Replay
from engine.jobs.smoothness import Smoothness
from engine.jobs.train import TrainAndReplay
from engine.jobs.validation import Validate
from engine.jobs.what_if import WhatIf
from engine.runs import run as runs
from engine.runs.job import JobRecord
from engine.runs.progress import Progress, follow
from tests.quick import CONFIG

pytestmark = pytest.mark.usefixtures("root")


def do(run: runs.Run, job=None, **more):
    with run.lock():
        return work.execute(run, job, **more)


def of_kind(run: runs.Run, kind: str) -> list[dict]:
    return [event for event in run.events()[0] if event["kind"] == kind]


# -- what a job is


@pytest.mark.parametrize(
    "job, words",
    [
        (Replay(("test:119", "test:605")), "Replaying 2 targets: test 119, test 605"),
        (Replay(("test:all",)), "Replaying 1 target: all test images"),
        (
            TrainAndReplay(tuple(f"test:{i}" for i in range(6)), "loss", "disk"),
            "Training, and replaying for 6 targets: test 0, test 1, test 2, test 3 and 2 more",
        ),
        (WhatIf.of([3, 4], {7: 1}), "What if? Training again without 2 of the images and with 1 other labels"),
        (Validate(8, (0.01, 0.05)), "Validating: 16 retrainings, each without 1 %, 5 % of the images"),
        (Rebuild("disk"), "Rebuilding the checkpoints for disk mode, by training once more"),
        (Smoothness(2), "Measuring the smoothness, by 4 trainings"),
    ],
)
def test_a_job_says_what_it_does_and_for_which_targets(job, words):
    assert job.doing() == words


def test_a_run_tells_what_it_went_through_and_what_each_job_left(quick):
    """Events of a whole run, and of a further job: the record of each, its phases, its result."""
    (started,), (done,) = of_kind(quick, "started"), of_kind(quick, "done")
    assert from_record(JobRecord(started["job"], started["fields"])) == TrainAndReplay(CONFIG.targets, "loss", "disk")
    # 10 steps; 2 targets of 2.6 training steps each; in this folder there was no run like it to measure by.
    assert started["phases"] == [{"phase": "train", "cost": 10}, {"phase": "replay", "cost": 52}]
    assert started["step_seconds"] is None and done["scores"] == "loss-000" and done["reports"] == []
    result = do(quick, WhatIf.of([3, 4]))
    assert of_kind(quick, "done")[1]["reports"] == list(result.reports)
    assert of_kind(quick, "done")[1]["fields"] == {"left_out": [3, 4], "relabelled": []}
    started = of_kind(quick, "started")[1]
    assert started["phases"] == [{"phase": "retrain", "cost": 10}]
    timings = quick.manifest().timings
    assert started["step_seconds"] == pytest.approx(timings["train_seconds"] / 10)


def test_costs_are_those_of_the_run_itself_or_of_one_like_it(quick, root):
    record = quick.manifest()
    a_target = record.timings["replay_seconds"] / 2 / record.timings["train_seconds"]
    assert ahead.measured(quick) == ahead.Measured(record.timings["train_seconds"] / 10, pytest.approx(a_target))
    config = record.config
    alike = runs.Run.create(root, config.replace(targets=("test:5",), **{"recipe.seed": 3}))
    assert ahead.measured(alike) == ahead.measured(quick)
    other = runs.Run.create(root, config.replace(width=0.5))
    assert ahead.measured(other) == ahead.Measured(None, ahead.A_TARGET)


# -- the time left in all


def told(*events: dict) -> Progress:
    return follow(Progress(), [{"time": 0.0, **event} for event in events])


PHASES = [{"phase": "train", "cost": 100}, {"phase": "replay", "cost": 800}]
STARTED = {"kind": "started", "job": "run", "phases": PHASES, "step_seconds": 0.1}
TRAINING = {"kind": "phase", "phase": "train", "steps": 100}
REPLAYING = {"kind": "phase", "phase": "replay", "steps": 100}


def at(time: float, phase: str, step: int, rate: float) -> dict:
    return {"kind": "progress", "time": time, "phase": phase, "step": step, "steps": 100, "rate": rate}


@pytest.mark.parametrize(
    "events, left",
    [
        ([STARTED], 90.0),  # by what was measured before
        ([STARTED | {"step_seconds": None}], None),
        ([STARTED, TRAINING], 90.0),
        # A step takes 0.2 s now, by this phase's own steps: the other half of them, and the replay as long as 800.
        ([STARTED, TRAINING, at(10.0, "train", 50, 5.0)], 10 + 160),
        ([STARTED | {"step_seconds": None}, TRAINING, at(10.0, "train", 50, 5.0)], 10 + 160),
        ([STARTED, TRAINING, at(20.0, "train", 100, 5.0), {"kind": "phase", "phase": "evaluate", "steps": 0}], 160),
        ([STARTED, TRAINING, at(20.0, "train", 100, 5.0), REPLAYING], 160),
        # The replay is measured by itself once it goes on.
        ([STARTED, TRAINING, at(20.0, "train", 100, 5.0), REPLAYING, at(60.0, "replay", 20, 0.5)], 160),
        ([STARTED, TRAINING, at(20.0, "train", 100, 5.0), REPLAYING, at(60.0, "replay", 20, 2.0)], 40),
        # Checkpoints that were missing are trained once more in between: what is left of both.
        (
            [STARTED, TRAINING, at(20.0, "train", 100, 5.0), REPLAYING, at(100.0, "replay", 50, 0.5)]
            + [{"kind": "phase", "phase": "rebuild", "steps": 10, "time": 100.0}]
            + [{"kind": "progress", "time": 102.0, "phase": "rebuild", "step": 5, "steps": 10, "rate": 2.5}],
            2 + 100,
        ),
        ([{"kind": "started", "job": "mine"}, TRAINING, at(10.0, "train", 50, 5.0)], None),  # foretells nothing
    ],
)
def test_the_time_left_in_all_is_what_was_measured_of_all_phases(events, left):
    assert told(*events).seconds_in_all == (None if left is None else pytest.approx(left))


def test_a_log_of_an_older_version_is_followed_as_before():
    now = told({"kind": "queued", "job": "run"}, {"kind": "started", "job": "run"}, TRAINING, at(1.0, "train", 7, 2.0))
    assert (now.job, now.fields, now.accuracies, now.seconds_in_all, now.seconds_left) == ("run", {}, [], None, 46.5)


# -- accuracy during training


def test_the_accuracy_is_told_at_epochs_and_changes_no_bit_and_no_draw(quick, root, monkeypatch):
    expected = quick.scores().matrix("loss-000")
    curve = [(event["step"], event["accuracy"], event["images"]) for event in of_kind(quick, "accuracy")]
    assert [(step, images) for step, _, images in curve] == [(5, 60), (10, 60)]
    assert curve[-1][1] == pytest.approx(quick.manifest().test_accuracy, abs=1e-6)
    drawn = torch.random.get_rng_state()
    unwatched = runs.Run.create(root, quick.manifest().config)
    with monkeypatch.context() as patch:
        patch.setattr(accuracy, "WithAccuracy", lambda recorder, session: recorder)
        do(unwatched)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    watched = runs.Run.create(root, quick.manifest().config)
    do(watched)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert len(of_kind(unwatched, "accuracy")) == 1  # of the final state, which is evaluated anyway
    for run in (unwatched, watched):
        assert np.array_equal(run.scores().matrix("loss-000"), expected) and expected.any()
        assert (run.path / "model/digests.json").read_bytes() == (quick.path / "model/digests.json").read_bytes()


def test_the_accuracy_is_that_of_the_state_on_images_of_all_classes():
    """The share of right answers, of images that are spread over a split in the order of its classes."""
    labels = torch.arange(2000) // 200

    class Model:
        def __call__(self, theta, buffers, inputs, training):
            assert not training and len(inputs) <= 1000
            answers = torch.where(inputs[:, 0] < theta, inputs[:, 0].long(), 0)
            return torch.nn.functional.one_hot(answers, 10).float(), buffers

    heard = []
    session = SimpleNamespace(
        steps=12,
        config=SimpleNamespace(recipe=SimpleNamespace(epochs=3)),
        test=Examples(labels[:, None].float(), labels, torch.float32),
        stream=SimpleNamespace(data=SimpleNamespace(n=60_000)),
        model=Model(),
        journal=SimpleNamespace(event=lambda kind, **fields: heard.append((kind, fields))),
    )
    put = []
    recorder = accuracy.WithAccuracy(SimpleNamespace(put=lambda t, state: put.append(t)), session)
    for t in range(12):
        recorder.put(t, State(torch.tensor(float(t)), (), torch.empty(0)))
    assert put == list(range(12))
    assert heard == [
        ("accuracy", {"step": 4, "accuracy": 0.4, "images": 1000}),
        ("accuracy", {"step": 8, "accuracy": 0.8, "images": 1000}),
    ]
    assert accuracy._some(session.test, 6000).n == 400 and accuracy._some(session.test, 10).n == 100


def test_a_training_that_is_resumed_drops_the_accuracies_of_steps_that_are_run_again():
    first = [{"kind": "accuracy", "step": step, "accuracy": step / 100, "images": 9} for step in (25, 50, 75)]
    now = told(STARTED, TRAINING, *first, STARTED, TRAINING | {"done": 60})
    assert now.accuracies == [(25, 0.25), (50, 0.5)] and now.images == 9


# -- stopping


@pytest.mark.parametrize(
    "job, phase, words",
    [
        (Replay(("test:3",), "loss", "disk"), "replay", "while replaying, after 4 of 10 steps"),
        (Validate(5), "retrain", "while retraining, after 4 of 60 steps"),
        (Smoothness(1), "retrain", "while retraining, after 4 of 20 steps"),
    ],
)
def test_a_cancel_is_told_in_the_direction_of_the_progress(quick, monkeypatch, job, phase, words):
    """The number of steps that are done, and the same one in the log: replay goes backwards, progress does not."""
    cancel = threading.Event()
    monkeypatch.setattr("engine.jobs.journal.REPORT_EVERY", (0.0, 0.0))
    monkeypatch.setattr("engine.jobs.journal.METER_SHARE", 1e9)

    def watch(event: dict) -> None:
        if event["kind"] == "progress" and event["phase"] == phase and event["step"] == 4:
            cancel.set()

    with pytest.raises(CancelledError):
        do(quick, job, cancel=cancel, on_event=watch)
    (cancelled,) = of_kind(quick, "cancelled")
    assert cancelled["what"] == f"Cancelled {words}."
    last = of_kind(quick, "progress")[-1]
    assert (last["phase"], last["step"]) == (phase, 4)


def test_every_kind_of_job_foretells_its_phases(quick):
    dataset = datasets.load(quick.manifest().config.dataset)
    assert {kind for kind, job in JOBS.items() if "ahead" not in vars(job)} == set()
    assert [(p.name, p.cost) for p in Rebuild("disk").ahead(quick, dataset)] == [("rebuild", 10)]
    assert [p.name for p in Replay(("test:3",), "loss", "memory").ahead(quick, dataset)] == ["replay"]
    assert [p.name for p in Replay(("test:3",), "loss", "recompute").ahead(quick, dataset)] == ["rebuild", "replay"]
