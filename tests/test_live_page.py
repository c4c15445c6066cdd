"""*Live*, and what jobs tell of themselves: what runs, how long it takes in all, and what came of it."""

import contextlib
import dataclasses
import json
import os
import re
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from playwright.sync_api import expect

from engine.analysis import trust
from engine.core.state import State
from engine.core.stream import Examples
from engine.datasets import registry as datasets
from engine.errors import CancelledError
from engine.jobs import accuracy, ahead
from engine.jobs import execute as work
from engine.jobs.curvature import Curvature
from engine.jobs.job import Job, Result
from engine.jobs.journal import Meter
from engine.jobs.queue import JobQueue
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
from tests.app import server
from tests.helpers import button, idle, said, settled, show, sound, steps_done, wait_for, wait_until
from tests.quick import CONFIG
from tests.test_browser import AXE, violations
from tools.hold import Hold
from ui import formats, pictures, shell

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
        (WhatIf.of([3, 4], {7: 1}), "What if? Training again without 2 of the images and with 1 other label"),
        (Validate(8, (0.01, 0.05)), "Validating: 16 retrainings, each without 1 %, 5 % of the images"),
        (Rebuild("disk"), "Rebuilding the checkpoints for disk mode, by training once more"),
        (Smoothness(2), "Measuring the smoothness, by 4 trainings"),
        (Curvature(), "Measuring the curvature at 12 steps"),
    ],
)
def test_a_job_says_what_it_does_and_for_which_targets(job, words):
    assert job.doing() == words


@pytest.mark.slow
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


@pytest.mark.slow
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
    cancel, exact = threading.Event(), Meter.report
    monkeypatch.setattr("engine.jobs.journal.REPORT_EVERY", (1e9, 1e9))  # nothing is told before its end

    def report(meter: Meter, done: int, *more, **last) -> None:
        exact(meter, done, *more, **last)
        if meter.phase == phase and done == 4:
            cancel.set()

    monkeypatch.setattr(Meter, "report", report)
    with pytest.raises(CancelledError):
        do(quick, job, cancel=cancel)
    (cancelled,) = of_kind(quick, "cancelled")
    assert cancelled["what"] == f"Cancelled {words}."
    last = of_kind(quick, "progress")[-1]
    assert (last["phase"], last["step"]) == (phase, 4)


def test_every_kind_of_job_foretells_its_phases(quick):
    dataset = dataset_of(quick)
    assert {kind for kind, job in JOBS.items() if "ahead" not in vars(job)} == set()
    assert [(p.name, p.cost) for p in Rebuild("disk").ahead(quick, dataset)] == [("rebuild", 10)]
    assert [p.name for p in Replay(("test:3",), "loss", "memory").ahead(quick, dataset)] == ["replay"]
    assert [p.name for p in Replay(("test:3",), "loss", "recompute").ahead(quick, dataset)] == ["rebuild", "replay"]


# -- what came of it, and the way back


def links(app) -> dict[str, str]:
    """Queries of the page's links, those of the sidebar left out, by page and label."""
    beside = {id(link.proto) for link in app.sidebar.get("page_link")}
    shown = [link.proto for link in app.get("page_link") if id(link.proto) not in beside]
    return {f"{link.page}: {link.label}": link.query_string.replace("%3A", ":") for link in shown}


def dataset_of(run: runs.Run):
    return datasets.load(run.manifest().config.dataset)


def headings(app) -> list[str]:
    return [each.value for each in app.subheader]


def submitted(run: runs.Run, job: Job, asked_on: str = "", asked_about: str = "") -> None:
    queue = JobQueue.of(run.root)
    queue.submit(run.id, job, asked_on, asked_about)
    wait_for(queue)


@pytest.mark.slow
def test_a_replay_ends_with_the_targets_that_it_explained(quick):
    submitted(quick, Replay(("test:7", "class:1")), "Test images")
    app = show("pages/Live.py", run=quick.id)
    assert "Finished: the scores are ready." in said(app)
    assert any("**2 targets explained.**" in each.value for each in app.markdown)
    shown = links(app)
    title = quick.manifest().score_sets.target("test:7.loss").target.title(dataset_of(quick))
    assert shown[f"Influence: {title}"] == f"run={quick.id}&target=test:7.loss"
    assert shown["Influence: Look at the influence"] == f"run={quick.id}&target=test:7.loss"
    assert not [label for label in shown if "Find bad labels" in label]
    assert sum("<img " in each.proto.body for each in app.get("html")) >= 2


@pytest.mark.slow
def test_scores_for_find_bad_labels_lead_back_there(quick):
    submitted(quick, Replay(("test:all",)), "Find bad labels")
    assert "Find_bad_labels: Find bad labels with these scores" in links(show("pages/Live.py", run=quick.id))


@pytest.mark.slow
def test_a_what_if_ends_with_its_table_for_the_target_that_was_looked_at(quick):
    submitted(quick, WhatIf.of([3, 4]), "Influence", "test:1.loss")
    app = show("pages/Live.py", run=quick.id)
    assert "Trained again: 2 images left out." in said(app) and "scores are ready" not in said(app)
    (report,) = trust.what_ifs(quick.manifest())
    asked = next(target for target in report["targets"] if target["key"] == "test:1.loss")
    dataset = dataset_of(quick)
    assert app.table[0].value.to_dict("records") == formats.what_if_table(asked, dataset.classes)
    shown = links(app)
    (label,) = [label for label in shown if label.startswith("Influence: What if?")]
    assert shown[label] == f"run={quick.id}&target=test:1.loss"
    assert "Find_bad_labels: Back to Find bad labels" not in shown
    # Done again from another page, about nothing: its first target, and the way back there.
    submitted(quick, WhatIf.of([5]), "Find bad labels")
    shown = links(show("pages/Live.py", run=quick.id))
    assert "Find_bad_labels: Back to Find bad labels" in shown
    assert [q for label, q in shown.items() if "What if?" in label] == [f"run={quick.id}&target=test:0.loss"]
    # One that changes what the model says of test images: they are shown, too.
    submitted(quick, WhatIf.of([], {i: 0 for i in range(0, 120, 2)}), "Influence")
    app = show("pages/Live.py", run=quick.id)
    (changed,) = [each.label for each in app.expander if "another predicted label" in each.label]
    assert trust.what_ifs(quick.manifest())[-1]["test"]["changed"] > 0 and not changed.endswith(" 0")


@pytest.mark.slow
def test_a_validation_ends_with_its_verdict_and_a_rebuild_with_what_it_is_good_for(quick):
    submitted(quick, Validate(5), "Trust")
    app = show("pages/Live.py", run=quick.id)
    reason = trust.verdict(quick.manifest()).reason
    assert "Validated with 5 subsets" in reason and f"Checked. **Check before you rely on it.** {reason}" in said(app)
    assert list(links(app)) == ["Trust: Look at the trust report"]
    submitted(quick, Rebuild("disk"))
    assert "the checkpoints are complete" in said(show("pages/Live.py", run=quick.id))


@pytest.mark.slow
def test_a_kind_of_ones_own_has_a_headline_and_an_end(quick, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Count(Job):
        kind = "count"
        stages = ("prepare", "done")

        def check(self, run, dataset):
            return self

        def do(self, session):
            return Result(reports=("counted",))

    monkeypatch.setitem(JOBS, "count", Count)
    assert Count().doing() == "Doing the job «count»" and Count().ahead(quick, None) == ()
    submitted(quick, Count())
    app = show("pages/Live.py", run=quick.id)
    assert "Finished: the job «count». It wrote counted." in said(app) and "Trust: Look at the trust report" in links(
        app
    )


@pytest.mark.slow
def test_several_jobs_of_one_resumption_each_have_their_result(quick):
    cancel = threading.Event()
    cancel.set()
    for job in (Replay(("test:8",)), WhatIf.of([3])):
        with pytest.raises(CancelledError):
            do(quick, job, cancel=cancel)
    JobQueue.of(quick.root).resume(quick.id)
    wait_for(JobQueue.of(quick.root))
    app = show("pages/Live.py", run=quick.id)
    assert "the scores are ready" in said(app) and "Trained again: 1 image left out" in said(app)


@pytest.mark.slow
def test_of_a_log_that_says_no_results_the_scores_that_it_names_are_shown(quick):
    """As versions before 0.4.0 wrote them: no record with «started», no «done»."""
    do(quick, Replay(("test:9",)))
    quick.events_log.append("queued", ahead=0, job="replay")
    quick.events_log.append("started", job="replay")
    quick.events_log.append("phase", phase="replay", steps=10)
    quick.events_log.append("finished", scores="loss-001")
    shown = links(show("pages/Live.py", run=quick.id))
    assert shown["Influence: Look at the influence"] == f"run={quick.id}&target=test:9.loss"
    quick.storage().clean(("logs",))
    assert "the scores are ready" in said(show("pages/Live.py", run=quick.id))
    quick.storage().clean(("scores",))
    assert "were deleted" in said(show("pages/Live.py", run=quick.id))


@pytest.mark.parametrize(
    "event",
    [
        {"kind": "done", "job": "![x](http://evil.example/p.png)", "reports": ["../../etc", "[a](b)"]},
        {"kind": "done", "job": "replay", "scores": "../config"},
        {"kind": "done", "job": "what-if", "reports": ["none"]},
        {"kind": "started", "job": "replay", "fields": {"targets": [3], "mode": {}}, "host": "![x](y)", "pid": 1},
        {"kind": "started", "job": "replay", "phases": [{"phase": "![x](y)", "cost": 2**62}], "step_seconds": 1e300},
        {"kind": "queued", "job": "replay", "asked_on": "../../etc", "asked_about": "![x](y)"},
        {"kind": "accuracy", "step": 2**60, "accuracy": 1.0, "images": 2**60},
    ],
)
@pytest.mark.slow
@pytest.mark.parametrize("held", [False, True])
def test_a_log_of_another_hand_is_text_and_stops_no_page(quick, event, held):
    quick.events_log.append(**event)
    with quick.lock() if held else contextlib.nullcontext():
        if held:
            quick.update_manifest(status_said="replaying")
        app = show("pages/Live.py", run=quick.id)
    assert "](" not in "".join(each.value for each in (*app.subheader, *app.markdown, *app.caption)).replace("\\", "@")


@pytest.mark.parametrize(
    "event", [{"kind": "accuracy", "step": 1, "accuracy": 1.5, "images": 3}, {"kind": "started", "fields": [1]}]
)
def test_an_event_that_says_what_cannot_be_is_damage(quick, event):
    quick.events_log.append(**event)
    assert quick.events()[0][-1]["kind"] == "unreadable"


# -- while it runs


@contextlib.contextmanager
def at_work(run: runs.Run, *events: dict, status: str = "replaying"):
    """The run is in the hands of another process, which has told these events."""
    run.update_manifest(status_said=status)
    for event in events:
        run.events_log.append(**event)
    lock = run.lock().acquire()
    try:
        yield
    finally:
        os.close(lock)


def metrics(app) -> dict[str, str]:
    return {each.label: each.value for each in app.metric}


def test_the_headline_says_the_job_the_figures_the_time_in_all_and_what_can_be_looked_at(quick):
    job = Replay(("test:19", "test:5"), "loss", "memory")
    begun = {"kind": "started", "job": "replay", "fields": job.record().fields, "host": "here", "pid": 4711}
    begun |= {"phases": [{"phase": "rebuild", "cost": 10}, {"phase": "replay", "cost": 50}], "step_seconds": 2.0}
    with at_work(quick, begun, {"kind": "phase", "phase": "rebuild", "steps": 10}):
        app = show("pages/Live.py", run=quick.id)
    assert headings(app) == ["Replaying 2 targets: test 19, test 5"]
    assert metrics(app)["Left in all"] == "2 min 00 s" and "Left in this phase" not in metrics(app)
    assert metrics(app)["Test accuracy"] == formats.percent(quick.manifest().test_accuracy)
    assert any("run once more, to the same states" in each.value for each in app.caption)
    shown = links(app)
    assert shown["Test_images: Look at the test images"] == f"run={quick.id}"
    # It is another process's: nothing here could stop it.
    assert not [each for each in app.button if "ancel" in each.label]
    assert "process 4711 on here. Cancel it there." in said(app)
    assert "2 targets" not in app.main.caption[0].value and "10 steps" not in said(app)


def test_on_every_page_the_sidebar_leads_to_the_result_of_the_job_that_was_watched(quick):
    begun = {"kind": "started", "job": "replay", "phases": [{"phase": "replay", "cost": 50}], "step_seconds": 2.0}
    with at_work(quick, begun, {"kind": "phase", "phase": "replay", "steps": 10}):
        app = show("pages/Live.py", run=quick.id)
        (bar,) = app.sidebar.get("progress")
        assert bar.proto.text == "Replay, step 0 of 10, 1 min 40 s left in all"
        sound(app.switch_page("pages/Glossary.py").run())
        assert not ended(app)
    quick.update_manifest(status_said="finished")
    shell._looks.clear()
    assert ended(sound(app.run())) == [f"run={quick.id}"]
    app.switch_page("pages/Live.py")
    app.query_params["run"] = quick.id
    sound(app.run())
    sound(app.switch_page("pages/Glossary.py").run())
    assert not ended(app)  # it was seen


def ended(app) -> list[str]:
    protos = [link.proto for link in app.sidebar.get("page_link")]
    return [proto.query_string for proto in protos if proto.label == "Your job has ended: see the result"]


def test_an_interrupted_run_has_no_time_left_and_a_failed_one_none(quick):
    with at_work(quick, {"kind": "started", "job": "replay"}, {"kind": "phase", "phase": "replay", "steps": 10}):
        quick.events_log.append("progress", phase="replay", step=3, steps=10, rate=0.1)
        assert metrics(show("pages/Live.py", run=quick.id))["Left in this phase"] == "1 min 10 s"
    app = show("pages/Live.py", run=quick.id)
    assert "Interrupted" in said(app) and metrics(app)["Step"] == "3 of 10"
    assert not [label for label in metrics(app) if "Left" in label]


def test_a_guest_is_offered_nothing_to_start_or_stop(quick, monkeypatch):
    quick.update_manifest(jobs=(Replay(("test:7",), "loss", "disk").record(),))
    assert button(show("pages/Live.py", run=quick.id), "Resume the run")
    monkeypatch.setenv("REPLAY_READ_ONLY", "1")
    assert [each.label for each in show("pages/Live.py", run=quick.id).button] == []


def test_a_training_without_scores_says_so_and_where_to_choose_targets(quick):
    quick.storage().clean(("logs", "scores"))
    assert "were deleted" in said(show("pages/Live.py", run=quick.id))
    quick.update_manifest(scored=None)
    app = show("pages/Live.py", run=quick.id)
    assert "It has no scores." in said(app)
    assert list(links(app)) == ["Test_images: Choose targets by looking"]


def test_charts_without_values_are_not_drawn(quick):
    quick.storage().clean(("logs",))
    with at_work(quick, {"kind": "started", "job": "replay"}):
        app = show("pages/Live.py", run=quick.id)
    assert not app.get("plotly_chart")
    assert any("Measured with the first steps." in each.value for each in app.caption)


def test_the_accuracy_is_drawn_in_per_cent_at_its_steps(quick):
    (line,) = pictures.accuracies([(5, 0.5), (10, 0.75)]).data
    assert list(line.x) == [5, 10] and list(line.y) == [50, 75]
    drawn = [json.loads(chart.proto.spec) for chart in show("pages/Live.py", run=quick.id).get("plotly_chart")]
    titles = [chart["layout"]["yaxis"].get("title", {}).get("text") for chart in drawn]
    assert titles[:3] == ["Batch loss (nats)", "Right", "Learning rate (a step)"]


@pytest.mark.slow
def test_a_queued_run_that_is_cancelled_leaves_the_queue_at_once_and_says_so(quick, monkeypatch):
    """While another run works; and that one says «Stopping …» until it has stopped."""
    begun, go_on, exact = threading.Event(), threading.Event(), work.opened

    def opened(*given):
        begun.set()
        assert go_on.wait(120)
        return exact(*given)

    monkeypatch.setattr(work, "opened", opened)
    queue = JobQueue.of(quick.root)
    queue.submit(quick.id, Replay(("test:3",)))
    assert begun.wait(120)
    try:
        waiting = queue.start(quick.manifest().config)
        app = show("pages/Live.py", run=waiting)
        assert headings(app) == ["Training, and replaying for 2 targets: test 0, test 1"]
        assert any("waits until 1 run is done" in each.value for each in app.caption)
        sound(button(app, "Cancel the run").click().run())
        assert "Cancelled before it began: it has left the queue." in said(app) and queue.active() == [quick.id]
        assert "puts it into the queue again" in said(app) and not button(app, "Resume the run").disabled

        app = show("pages/Live.py", run=quick.id)
        sound(button(app, "Cancel the run").click().run())
        for _ in range(2):  # it stays until the step in hand is done
            assert button(app, "Stopping …").disabled and not [b for b in app.button if "Cancel" in b.label]
            sound(app.run())
    finally:
        go_on.set()
        wait_for(queue)
    app = show("pages/Live.py", run=quick.id)
    assert "Cancelled while replaying" in said(app) and not [b for b in app.button if "Stopping" in b.label]


# -- in a browser


def test_a_job_in_a_browser_from_its_start_to_the_way_back(page, quick, tmp_path):
    """Resumed, held in its middle, cancelled, resumed, and done: the page follows by itself, without a reload."""
    quick.update_manifest(jobs=(Replay(("test:7", "test:9"), "loss", "disk").record(),))
    hold = Hold("replay", 4, tmp_path / "gate")
    main = page.get_by_test_id("stMainBlockContainer")
    with server(quick.root, page, hold=hold) as (url, _):
        page.goto(f"{url}/Live?run={quick.id}")
        settled(page, "Live")
        main.get_by_role("button", name="Resume the run").click()
        expect(main.get_by_role("heading", name="Replaying 2 targets: test 7, test 9")).to_be_visible()
        wait_until(lambda: steps_done(page) == ("Replay", 4), page)
        expect(main.get_by_text("Replay: step 4 of 10")).to_be_visible()
        expect(main.get_by_text("Left in all", exact=True)).to_be_visible()
        expect(main.get_by_text("A replay goes through the training backwards")).to_be_visible()
        expect(main.get_by_role("link", name="Look at the test images")).to_be_visible()
        main.get_by_role("button", name="Cancel the run").click()
        expect(main.get_by_test_id("stAlert").get_by_text("Cancelled while replaying, after 4 of 10")).to_be_visible()
        expect(main.get_by_test_id("stMetric").nth(1)).to_contain_text("4 of 10")
        expect(main.get_by_text("Left in all", exact=True)).to_have_count(0)
        hold.open()
        main.get_by_role("button", name="Resume the run").click()
        expect(main.get_by_text("Finished: the scores are ready.")).to_be_visible()
        for width in (390, 1024, 1440):
            page.set_viewport_size({"width": width, "height": 900})
            target = main.get_by_role("link", name="Test image 9")
            expect(target).to_be_visible()
            for each in main.get_by_test_id("stPageLink").all():
                assert each.evaluate("e => e.scrollWidth <= e.clientWidth + 1"), (width, each.inner_text())
        idle(page)  # what a run of the script has not drawn yet is pale
        page.add_script_tag(content=AXE.read_text(encoding="utf-8"))
        assert not [problem for theme in ("light", "dark") for problem in violations(page, theme)]
        pictures_shown = main.locator('img[alt^="Test image"]')
        expect(pictures_shown).to_have_count(2)
        target.click()
        settled(page, "Influence")
        expect(page).to_have_url(re.compile("target=test(:|%3A)9.loss"))
