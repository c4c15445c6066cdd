"""Jobs: checked before they are recorded, all unfinished ones kept, reopened only by code that computes the same."""

import builtins
import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import files, space
from engine.__main__ import main
from engine.analysis import lds, trust
from engine.config import MODELS, OPTIMIZERS
from engine.core import schedule
from engine.datasets import registry as datasets
from engine.datasets.base import Sizes
from engine.errors import CancelledError, ConfigError, DataError, IntegrityError, StorageError
from engine.jobs import estimate, predict, queue, reopen, session
from engine.jobs.cancel import Cancel
from engine.jobs.curvature import Curvature
from engine.jobs.execute import execute
from engine.jobs.job import Job, Result, next_name
from engine.jobs.queue import JobQueue
from engine.jobs.rebuild import Rebuild
from engine.jobs.registry import JOBS, from_record, kind_named, records, unfinished
from engine.jobs.replay import Replay
from engine.jobs.smoothness import Smoothness
from engine.jobs.train import TrainAndReplay
from engine.jobs.validation import Validate
from engine.jobs.what_if import WhatIf
from engine.models import registry as models
from engine.models import small_cnn
from engine.runs import run as runs
from engine.runs import uploads
from engine.runs.job import JobRecord, fields_of_schema_2
from tests.helpers import wait_for
from tests.made_up import SMALL
from tools.hold import every_step_told

ROOT = Path(__file__).parents[1]


def do(run: runs.Run, job: Job | None = None, **more) -> Result:
    with run.lock():
        return execute(run, job, **more)


@pytest.fixture
def interrupted(run) -> runs.Run:
    """A trained and scored run whose further replay was cancelled at once."""
    cancel = threading.Event()
    cancel.set()
    with run.lock(), pytest.raises(CancelledError):
        execute(run, Replay(("test:7", "class:1")), cancel)
    assert [job.kind for job in unfinished(run)] == ["replay"]
    return run


# -- jobs are values


@pytest.mark.parametrize(
    "job",
    [
        TrainAndReplay(("test:0", "class:2"), "loss", "disk"),
        Replay(("test:1",), "margin", "recompute"),
        Rebuild("recompute"),
        Validate(6, (0.01, 0.05), 3),
        WhatIf.of([5, 3], {7: 1}),
        Smoothness(3, 1),
        Curvature(5),
    ],
)
def test_a_job_is_the_same_after_its_record_was_written_and_read(job):
    assert from_record(JobRecord.from_json(json.loads(json.dumps(job.record().to_json())))) == job
    assert JOBS[job.kind] is type(job) and job.stages[0] == "prepare" and job.stages[-1] == "done"
    with pytest.raises(dataclasses.FrozenInstanceError):
        job.kind = "other"


@pytest.mark.parametrize(
    "kind, slots, job",
    [
        ("validate", {"options": {"subsets": 5, "drops": [0.01], "seed": 2}}, Validate(5, (0.01,), 2)),
        ("what-if", {"options": {"left_out": [3], "relabelled": {"10": 1, "9": 2}}}, WhatIf.of([3], {9: 2, 10: 1})),
        ("replay", {"mode": "disk", "targets": ["test:1"], "function": "loss"}, Replay(("test:1",), "loss", "disk")),
        ("rebuild", {"mode": "recompute"}, Rebuild("recompute")),
        (
            "run",
            {"mode": "disk", "targets": ["test:1"], "function": "loss"},
            TrainAndReplay(("test:1",), "loss", "disk"),
        ),
    ],
)
def test_jobs_of_schema_2_are_read(kind, slots, job):
    old = {"kind": kind, "mode": "", "targets": [], "function": "", "options": {}, **slots}
    assert from_record(JobRecord(kind, fields_of_schema_2(old))) == job


@pytest.mark.parametrize(
    "record, said",
    [
        (JobRecord("distil"), "«distil» is no kind of job"),
        (JobRecord("validate"), "missing fields: subsets"),
        (JobRecord("smoothness", {"depth": 3}), "unknown or missing fields: depth"),
        (JobRecord("smoothness", {"directions": "two"}), "has «two» for its field directions"),
        (JobRecord("smoothness", {"directions": True}), "for its field directions"),
        (JobRecord("replay", {"targets": "test:1"}), "for its field targets"),
        (JobRecord("replay", {"targets": [["test:1"]]}), "for its field targets"),
        (JobRecord("validate", {"subsets": 5, "drops": [0.1, None]}), "for its field drops"),
        (JobRecord("what-if", {"relabelled": [[1, 2, 3]]}), "for its field relabelled"),
    ],
)
def test_a_record_that_is_no_known_job_is_named_and_never_replayed(run, record, said):
    with pytest.raises(ConfigError, match=said):
        from_record(record)
    run.update_manifest(jobs=(record,))
    before = run.path.joinpath("manifest.json").read_bytes()
    with pytest.raises(ConfigError, match=said):
        do(run)
    assert run.path.joinpath("manifest.json").read_bytes() == before
    with pytest.raises(ConfigError, match="no kind of job"):
        kind_named("distil")


def test_a_kind_of_ones_own_is_registered_queued_and_done(run, root, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Count(Job):
        kind = "count"
        stages = ("prepare", "done")
        upto: int = 3

        def check(self, run, dataset):
            return self

        def do(self, session):
            for i in range(self.upto):
                session.journal.note(f"count {i}")
            return Result(reports=("counted",))

    monkeypatch.setitem(JOBS, "count", Count)
    jobs = JobQueue(root)
    jobs.submit(run.id, Count(2))
    wait_for(jobs)
    assert [e["text"] for e in run.events()[0] if e.get("text", "").startswith("count")] == ["count 0", "count 1"]
    assert unfinished(run) == ()


@pytest.mark.slow
def test_pages_build_jobs_without_torch():
    code = "import sys; from engine.jobs import registry, queue; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_names_are_numbered_from_the_names_alone():
    recorded = ["scores/loss-000.npy", "scores/loss-000.json", "scores/margin-007.npy", "validation/what-if-003.json"]
    assert next_name(recorded, "scores", "loss") == "loss-008"
    assert next_name(recorded, "validation", "what-if", among="what-if-") == "what-if-004"
    assert next_name([], "scores", "loss") == "loss-000"


@pytest.mark.slow
def test_a_damaged_old_sidecar_costs_no_replay(run):
    (run.path / "scores" / "loss-000.json").write_text("{}")
    name = do(run, Replay(("test:4",))).scores
    assert name == "loss-001" and run.scores().matrix(name).shape == (1, 6000)


# -- checked before they are recorded


BAD = [
    (Replay(("test:5_7",)), "'test:5_7' is no target"),
    (Replay(()), "No target"),
    (Replay(("test:1000",)), "out of range"),
    (Replay(("test:1", "test:1")), "named twice"),
    (Replay(("test:1",), "accuracy"), "no target function"),
    (Replay(("test:1",), "loss", "cloud"), "no replay mode"),
    (Rebuild("memory"), "Nothing is kept in memory"),
    (Rebuild("cloud"), "no replay mode"),
    (Validate(4), "from 5"),
    (Validate(5, ()), "No fraction"),
    (Validate(5, (float("nan"),)), "not possible"),
    (Validate(5, (float("inf"),)), "not possible"),
    (Validate(5, (-0.5,)), "not possible"),
    (Validate(5, (0.01, 0.01)), "named twice"),
    (Validate(5, (0.9999,)), "no training image of class"),
    (Validate(5, (0.01,), -1), "seed"),
    (WhatIf.of([]), "No image"),
    (WhatIf.of([6000]), "not there"),
    (WhatIf.of([3, 3]), "twice"),
    (WhatIf.of([], {3: 10}), "label 10"),
    (Smoothness(0), "from 1 to 64"),
    (Smoothness(2, -1), "seed"),
]


@pytest.mark.parametrize("job, said", BAD, ids=lambda value: str(value)[:40])
def test_a_job_that_cannot_be_done_changes_nothing(interrupted, job, said):
    run = interrupted
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match=said):
        do(run, job)
    with pytest.raises(ConfigError, match=said):
        JobQueue(run.root).submit(run.id, job)
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before
    assert not run.lock().is_held() and run.manifest().resumable


@pytest.mark.slow
@pytest.mark.parametrize(
    "call",
    [
        ["attribute", "--targets", "test:5_7"],
        ["attribute", "--targets", ""],
        ["attribute", "--targets", ","],
        ["validate", "--drop", ""],
        ["validate", "--drop", "nan"],
        ["validate", "--subsets", "1"],
        ["smoothness", "--directions", "0"],
        ["what-if"],
        ["what-if", "--leave-out", "99999"],
    ],
    ids=" ".join,
)
def test_a_typo_ends_with_exit_code_2_and_the_pending_replay_goes_on(interrupted, capsys, call):
    """A run is stopped in a replay, and the next call is wrong: `resume` goes on with the replay."""
    run, outputs = interrupted, ["--outputs", str(interrupted.root)]
    manifest = run.path.joinpath("manifest.json").read_bytes()
    try:
        code = main([call[0], run.id, *call[1:], *outputs])
    except SystemExit as wrong:  # argparse refuses some of them itself
        code = wrong.code
    assert code == 2 and "Traceback" not in capsys.readouterr().err
    assert run.path.joinpath("manifest.json").read_bytes() == manifest
    assert [job.targets for job in unfinished(run)] == [("test:7", "class:1")]


@pytest.mark.slow
def test_resume_after_a_typo_ends_with_the_scores_first_asked_for(interrupted, capsys):
    outputs = ["--outputs", str(interrupted.root)]
    assert main(["attribute", interrupted.id, "--targets", "test:5000", *outputs]) == 2
    assert main(["resume", interrupted.id, *outputs]) == 0
    assert {"test:7.loss", "class:1.loss"} <= {t.key for t in interrupted.scores().targets()}
    assert interrupted.status == "finished" and not interrupted.manifest().resumable


@pytest.mark.slow
def test_a_bad_job_of_an_older_version_is_taken_off_and_the_others_are_done(interrupted):
    bad = JobRecord("validate", {"subsets": 1, "drops": [0.01], "seed": 0})
    interrupted.update_manifest(jobs=(bad, *records(interrupted.manifest())))
    assert do(interrupted).scores == "loss-001"
    assert unfinished(interrupted) == () and interrupted.status == "finished"
    assert any("was taken off the list" in e.get("text", "") for e in interrupted.events()[0])


# -- all unfinished jobs are kept


@pytest.mark.slow
def test_a_check_beside_an_interrupted_replay_leaves_it_to_be_resumed(interrupted):
    do(interrupted, Smoothness(1))
    assert trust.smoothness(interrupted.manifest()) is not None
    assert [job.kind for job in unfinished(interrupted)] == ["replay"] and interrupted.manifest().resumable
    assert do(interrupted).scores == "loss-001"
    assert interrupted.status == "finished" and not interrupted.manifest().resumable
    assert {"test:7.loss", "class:1.loss"} <= {t.key for t in interrupted.scores().targets()}


@pytest.mark.slow
def test_resume_does_all_that_is_unfinished_in_order(interrupted):
    cancel = threading.Event()
    cancel.set()
    for job in (Smoothness(1), Replay(("test:9",), "margin")):
        with interrupted.lock(), pytest.raises(CancelledError):
            execute(interrupted, job, cancel)
    assert [job.kind for job in unfinished(interrupted)] == ["replay", "smoothness", "replay"]
    do(interrupted)
    started = [e["job"] for e in interrupted.events()[0] if e["kind"] == "started"]
    assert started[-3:] == ["replay", "smoothness", "replay"]
    assert unfinished(interrupted) == () and interrupted.scores().sidecars()[-1]["name"] == "margin-002"


def test_the_same_job_is_recorded_once(interrupted):
    cancel = threading.Event()
    cancel.set()
    with interrupted.lock(), pytest.raises(CancelledError):
        execute(interrupted, Replay(("test:7", "class:1")), cancel)
    assert len(unfinished(interrupted)) == 1


def test_an_unfinished_job_can_be_discarded(interrupted, capsys):
    outputs = ["--outputs", str(interrupted.root)]
    assert main(["resume", interrupted.id, "--discard", "1", *outputs]) == 2
    assert main(["resume", interrupted.id, "--discard", "0", *outputs]) == 0
    assert unfinished(interrupted) == () and interrupted.status == "finished" and not interrupted.manifest().resumable
    assert interrupted.manifest().error is None
    assert main(["resume", interrupted.id, *outputs]) == 2 and "nothing left to do" in capsys.readouterr().err


def test_a_job_of_a_newer_versions_kind_is_kept_until_it_is_discarded(interrupted, capsys):
    newer = JobRecord("distil", {"temperature": 2.0})
    interrupted.update_manifest(jobs=(newer, *interrupted.manifest().jobs))
    outputs = ["--outputs", str(interrupted.root)]
    assert main(["resume", interrupted.id, *outputs]) == 2 and "«distil» is no kind" in capsys.readouterr().err
    assert interrupted.manifest().jobs[0] == newer
    assert main(["resume", interrupted.id, "--discard", "0", *outputs]) == 0
    assert "«distil» was discarded; 1 left" in capsys.readouterr().out
    assert [job.kind for job in unfinished(interrupted)] == ["replay"]


def test_two_who_discard_the_same_job_discard_one(interrupted):
    """Two tabs show the same list, and both click."""
    first, second = JobRecord("smoothness", {"directions": 1, "seed": 0}), interrupted.manifest().jobs[0]
    interrupted.update_manifest(jobs=(first, second))
    assert queue.discard(interrupted, 0, first) == first
    with pytest.raises(ConfigError, match="have changed since they were shown"):
        queue.discard(interrupted, 0, first)
    assert interrupted.manifest().jobs == (second,)


# -- the same code, the same data, the same threads


def test_a_model_whose_code_has_changed_is_refused(run, monkeypatch):
    """Logits of twice the scale: no shape and no initial weight changes, and every score would be another."""
    monkeypatch.setitem(MODELS._things, "small-cnn", functools.partial(small_cnn.small_cnn, scale=1.0))
    for job in (Replay(("test:0",)), Rebuild("recompute"), Validate(5), WhatIf.of([1]), Smoothness(1)):
        with pytest.raises(IntegrityError, match="answer to test images of run .* is not what it was"):
            do(run, job)
    assert [t.key for t in run.scores().targets()] == ["test:0.loss", "class:2.loss"]


def test_a_model_that_draws_other_initial_weights_is_refused(run, monkeypatch):
    monkeypatch.setattr(session, "initial_state", lambda *given, of=session.initial_state: nudged(of(*given)))
    with pytest.raises(IntegrityError, match="initial state of run .* is not what it was"):
        do(run, Replay(("test:0",)))


def nudged(state):
    theta = state.theta.clone()
    theta[0] = torch.nextafter(theta[0], torch.tensor(1.0))
    return state._replace(theta=theta)


def test_another_permutation_of_the_examples_is_refused(run, monkeypatch):
    monkeypatch.setattr(
        schedule, "_permutation", lambda n, seed, epoch: np.random.default_rng([seed + 1, epoch]).permutation(n)
    )
    with pytest.raises(IntegrityError, match="batch plan of run .* is not what it was"):
        do(run, Replay(("test:0",)))


def test_another_learning_rate_is_refused(run, monkeypatch):
    exact = schedule.learning_rate
    for module in (schedule, reopen):
        monkeypatch.setattr(module, "learning_rate", lambda recipe, t, steps: exact(recipe, t, steps) * (1 + 1e-12))
    with pytest.raises(IntegrityError, match="learning rate of some step of run .* is not what it was"):
        do(run, Replay(("test:0",)))


@pytest.mark.parametrize("mode", ["disk", "memory"])
def test_an_optimizer_that_computes_otherwise_is_refused(run, monkeypatch, mode):
    """Another momentum: the states on the disk are those of before, and the step backwards would not be."""
    exact = OPTIMIZERS.get("sgd")
    monkeypatch.setitem(
        OPTIMIZERS._things, "sgd", lambda recipe, mask: exact(dataclasses.replace(recipe, momentum=0.5), mask)
    )
    with pytest.raises(IntegrityError, match="state after 2 steps of run .* is not what it was"):
        do(run, Replay(("test:0",), "loss", mode))


@pytest.mark.slow
def test_what_an_older_version_did_not_record_is_not_compared(run):
    run.update_manifest(plan_sha256=None, rates_sha256=None)
    name = do(run, Replay(("test:0", "class:2"))).scores
    assert np.array_equal(run.scores().matrix(name), run.scores().matrix("loss-000"))


@pytest.mark.slow
def test_a_killed_training_is_resumed_only_by_the_same_code(quick, monkeypatch):
    cancel = threading.Event()
    run = runs.Run.create(quick.root, quick.manifest().config)

    def stop(event):
        if event["kind"] == "progress" and event["step"] >= 8:
            cancel.set()

    with every_step_told(), pytest.raises(CancelledError):
        do(run, cancel=cancel, on_event=stop)
    assert not run.manifest().trained and (run.path / "trajectory" / "resume-training.safetensors").exists()
    with monkeypatch.context() as patch:
        patch.setattr(
            schedule, "_permutation", lambda n, seed, epoch: np.random.default_rng([seed + 1, epoch]).permutation(n)
        )
        with pytest.raises(IntegrityError, match="batch plan"):
            do(run)
    with monkeypatch.context() as patch:
        patch.setattr(session, "initial_state", lambda *given, of=session.initial_state: nudged(of(*given)))
        with pytest.raises(IntegrityError, match="initial state"):
            do(run)
    assert do(run).scores == "loss-000"


def test_a_changed_data_set_is_named(run, monkeypatch):
    dataset = datasets.load(SMALL.dataset)
    images = dataset.train_images.copy()
    images[0, 0, 0, 0] ^= 1
    monkeypatch.setattr(datasets, "load", lambda name: dataclasses.replace(dataset, train_images=images))
    with pytest.raises(DataError, match="fashion-mnist-sample has changed"):
        do(run, Replay(("test:1",)))


@pytest.fixture
def rounded_otherwise(quick) -> runs.Run:
    """As if where its scores come from sums had been rounded otherwise."""
    logits = np.array(quick.manifest().test_logits())
    sha256 = files.write_npy(quick.path / "model" / "test_logits.npy", logits * np.float32(1 + 1e-6))
    quick.update_manifest(files={**quick.manifest().files, "model/test_logits.npy": sha256})
    return quick


@pytest.mark.slow
@pytest.mark.parametrize("name, then", [("torch", "1.0"), ("instructions", "MMX")])
def test_other_software_and_instructions_are_named_and_their_rounding_allowed(rounded_otherwise, name, then):
    """Processors of one name may have other vector instructions."""
    run = rounded_otherwise
    run.update_manifest(versions={**run.manifest().versions, name: then})
    do(run, Replay(("test:1",)))
    assert any(f"{name} {then}, here" in e.get("text", "") for e in run.events()[0])


@pytest.mark.slow
def test_a_run_that_does_not_record_its_instructions_is_said_to(rounded_otherwise):
    run, said = rounded_otherwise, "vector instructions, which the run does not record"
    assert run.manifest().versions["instructions"] == torch.backends.cpu.get_cpu_capability()
    with pytest.raises(IntegrityError) as unlike:
        do(run, Replay(("test:1",)))
    assert said not in unlike.value.remedy
    run.update_manifest(versions={k: v for k, v in run.manifest().versions.items() if k != "instructions"})
    with pytest.raises(IntegrityError, match="not what it was") as unlike:
        do(run, Replay(("test:1",)))
    assert said in unlike.value.remedy


def test_a_job_computes_with_its_runs_threads_and_leaves_the_number_as_it_was(run):
    before, counts = torch.get_num_threads(), []

    @dataclasses.dataclass(frozen=True)
    class Count(Job):
        kind = "count-threads"
        stages = ("prepare", "done")

        def check(self, run, dataset):
            return self

        def do(self, session):
            counts.append(torch.get_num_threads())
            return Result()

    run.update_manifest(threads=before + 1)
    do(run, Count())
    assert counts == [before + 1] and torch.get_num_threads() == before


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["disk", "memory", "recompute"])
def test_lost_folders_are_made_again_and_what_was_in_them_is_trained_again(run, mode):
    """As after git, rsync or zip, which drop empty folders, or a person who needed the space."""
    shutil.rmtree(run.path / "trajectory")
    shutil.rmtree(run.path / "validation")
    name = do(run, Replay(("test:0", "class:2"), "loss", mode)).scores
    assert np.array_equal(run.scores().matrix(name), run.scores().matrix("loss-000"))
    do(run, WhatIf.of([1]))
    assert trust.what_ifs(run.manifest())


def test_a_linked_trajectory_is_refused_and_what_it_leads_to_stays(run, made):
    other = run.root / "20000101-000000-other-0000"
    shutil.copytree(made, other)
    before = {p.name: p.read_bytes() for p in (other / "trajectory").iterdir()}
    shutil.rmtree(run.path / "trajectory")
    (run.path / "trajectory").symlink_to(other / "trajectory")
    for job in (Rebuild("recompute"), Replay(("test:1",)), WhatIf.of([1])):
        with pytest.raises(StorageError, match="is a link"):
            do(run, job)
    assert {p.name: p.read_bytes() for p in (other / "trajectory").iterdir()} == before
    assert run.status == "finished" and unfinished(run) == ()


# -- retrainings


def retrained(run: runs.Run) -> dict[str, Path]:
    return {p.stem: p for p in (run.path / "validation" / "retrained").glob("*.safetensors")}


@pytest.mark.slow
def test_exchanged_retrainings_are_found_whatever_they_differ_in(run):
    """Two what-ifs that leave out the same images and differ in their labels alone."""
    labels = datasets.load(SMALL.dataset).train_labels
    shirts = np.flatnonzero(labels == 6)[:200]
    jobs = [WhatIf.of([], {int(i): c for i in shirts}) for c in (0, 1)]
    for job in jobs:
        do(run, job)
    first, second = trust.what_ifs(run.manifest())
    assert first["test_accuracy"] != second["test_accuracy"]
    one, other = retrained(run).values()
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    for job, right in zip(jobs, (first, second), strict=True):
        do(run, job)
        assert trust.what_ifs(run.manifest())[-1]["targets"] == right["targets"]
    notes = [e["text"] for e in run.events()[0] if "of another relabelled" in e.get("text", "")]
    assert len(notes) == 2


@pytest.mark.slow
def test_a_retraining_of_no_other_labels_is_not_one_of_other_labels(run):
    """The run's own weights and a relabelling leave out the same images: none."""
    do(run, WhatIf.of([], {1: 5}))
    (what_if,) = retrained(run).values()
    shutil.copy(what_if, what_if.with_name("all-1-0.safetensors"))
    do(run, Validate(5))
    assert trust.reports(run.manifest())[0]["noise_share"] == 0.0
    assert any("of another relabelled" in e.get("text", "") for e in run.events()[0])


@pytest.mark.slow
def test_temporary_files_beside_retrainings_are_swept(run):
    do(run, WhatIf.of([1]))
    left = run.path / "validation" / "retrained" / f"{files.TEMPORARY}left"
    left.write_bytes(b"x")
    os.utime(left, (0, 0))  # a young one may belong to a living process
    do(run, WhatIf.of([2]))
    assert not left.exists()


@pytest.mark.slow
def test_a_target_that_does_not_vary_does_not_count_and_the_rest_is_reported(run, capsys, monkeypatch):
    exact = lds.predicted
    monkeypatch.setattr(lds, "predicted", lambda scores, left_out: exact(scores * np.array([[1.0], [0.0]]), left_out))
    assert main(["validate", run.id, "--subsets", "5", "--outputs", str(run.root)]) == 0
    (report,) = trust.reports(run.manifest())
    assert report["targets_that_vary"] == 1 and report["lds_mean"] == report["targets"][0]["lds"]
    assert report["targets"][1]["lds"] is None
    assert "1 of 2 targets" in capsys.readouterr().out


@pytest.mark.slow
def test_no_target_that_varies_is_said(run, capsys, monkeypatch):
    exact = lds.predicted
    monkeypatch.setattr(lds, "predicted", lambda scores, left_out: 0 * exact(scores, left_out))
    assert main(["validate", run.id, "--subsets", "5", "--outputs", str(run.root)]) == 0
    assert trust.reports(run.manifest())[0]["lds_mean"] is None and "LDS - (- to -)" in capsys.readouterr().out
    assert run.status == "finished" and any("none of 2 targets varied" in e.get("text", "") for e in run.events()[0])


@pytest.mark.slow
def test_a_what_if_of_a_run_with_an_uploaded_target_has_a_dash(run, capsys):
    name = uploads.keep(run, datasets.load(SMALL.dataset).test_images[3])
    do(run, Replay((f"image:{name}:2",)))
    assert main(["what-if", run.id, "--leave-out", "1,2", "--outputs", str(run.root)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(f"image:{name}"))
    *_, predicted, error, retrained = line.split()
    assert float(predicted) and error == retrained == "-"


# -- the queue


def test_one_worker_and_one_queue_a_folder_whatever_the_caches_do(root, tmp_path, monkeypatch):
    other = runs.outputs_root(tmp_path / "other")
    made, exact = [], runs.sweep
    # All of them ask before the first is made: what is slow here makes a wrong queue likely.
    monkeypatch.setattr(runs, "sweep", lambda folder: time.sleep(0.05) or exact(folder))
    threads = [threading.Thread(target=lambda: made.append(JobQueue.of(root))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, made))) == 1 and JobQueue.of(other) is not made[0]
    engines = [t for t in threading.enumerate() if t.name == "replay-engine"]
    assert len(engines) == 1


@pytest.mark.slow
def test_jobs_of_two_folders_are_done_one_at_a_time_and_each_can_be_cancelled(made, root, tmp_path, monkeypatch):
    other = runs.outputs_root(tmp_path / "other")
    for folder in (root, other):
        shutil.copytree(made, folder / made.name)
    begun, go_on = threading.Event(), threading.Event()
    hold(monkeypatch, begun, go_on)
    first, second = JobQueue.of(root), JobQueue.of(other)
    first.submit(made.name, Replay(("test:3",)))
    begun.wait()
    second.submit(made.name, Replay(("test:3",)))
    assert first.active() == [made.name] == second.active()
    assert second.cancel(made.name) and second.active() == []
    assert runs.Run(other, made.name).manifest().error.kind == "cancelled"
    go_on.set()
    wait_for(first)
    assert runs.Run(root, made.name).status == "finished"


def hold(monkeypatch, begun: threading.Event, go_on: threading.Event) -> None:
    """The next job waits in its first lines until it is let go."""
    from engine.jobs import execute as module

    exact = module.opened

    def opened(*given):
        begun.set()
        go_on.wait()
        return exact(*given)

    monkeypatch.setattr(module, "opened", opened)


@pytest.mark.slow
def test_a_queued_run_is_cancelled_at_once(quick, monkeypatch):
    run, root = quick, quick.root
    begun, go_on = threading.Event(), threading.Event()
    hold(monkeypatch, begun, go_on)
    jobs = JobQueue(root)
    jobs.submit(run.id, Replay(("test:3",)))
    begun.wait()
    waiting = runs.Run.open(root, jobs.start(run.manifest().config))
    assert waiting.status == "queued"
    assert jobs.cancel(waiting.id)
    # The first job still holds the worker: it was not waited for.
    assert waiting.status == "cancelled" and not waiting.lock().is_held() and jobs.active() == [run.id]
    assert waiting.events()[0][-1]["kind"] == "cancelled" and waiting.manifest().resumable
    go_on.set()
    wait_for(jobs)
    assert run.status == "finished" and waiting.status == "cancelled"
    jobs.resume(waiting.id)
    wait_for(jobs)
    assert waiting.status == "finished"


@pytest.mark.slow
def test_a_job_that_is_refused_when_its_turn_comes_says_why(made, root, monkeypatch):
    """What it needs was there when it was queued: an uploaded image, folders without links."""
    begun, go_on = threading.Event(), threading.Event()
    hold(monkeypatch, begun, go_on)
    for name in ("first", "second", "third"):
        shutil.copytree(made, root / name)
    first, second, third = (runs.Run(root, name) for name in ("first", "second", "third"))
    jobs, image = JobQueue(root), uploads.keep(second, datasets.load(SMALL.dataset).test_images[3])
    jobs.submit("first", Replay(("test:3",)))
    begun.wait()
    jobs.submit("second", Replay((f"image:{image}:2",)))
    jobs.submit("third", Replay(("test:3",)))
    (second.path / "uploads" / f"{image}.png").unlink()
    (third.path / "validation" / "linked").symlink_to(first.path)
    go_on.set()
    wait_for(jobs)
    assert first.manifest().error is None and first.status == "finished"
    for run, said in ((second, f"{image}.png is missing"), (third, "linked is a link")):
        assert run.status == "finished" and run.manifest().resumable and said in run.manifest().error.what
        assert run.events()[0][-1]["kind"] == "failed" and said in run.events()[0][-1]["what"]


@pytest.mark.slow
def test_finished_means_that_the_next_job_is_taken(run, root):
    """A submission from the very callback in which the manifest says that the run is finished."""
    jobs, taken, accepted = JobQueue(root), [], []
    exact = runs.Run.update_manifest

    def submitting(self, **fields):
        manifest = exact(self, **fields)
        if fields.get("status_said") == "finished" and not taken:
            thread = threading.Thread(target=lambda: accepted.append(jobs.submit(run.id, Replay(("test:9",)))))
            thread.start()
            taken.append(thread)  # once it runs: the test joins what it finds here
        return manifest

    # The worker is slow to let go of the lock: it waits until the submission waits for it.
    asked, release = threading.Event(), queue._Held.release

    class WaitedFor(threading.Event):
        def wait(self, timeout=None):
            asked.set()
            return super().wait(timeout)

    def slowly(held):
        asked.wait(10)
        release(held)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs.Run, "update_manifest", submitting)
        patch.setattr(queue._Held, "release", slowly)
        add = queue._worker.add

        def watched(held):
            held.released = WaitedFor()
            add(held)

        patch.setattr(queue._worker, "add", watched)
        jobs.submit(run.id, Replay(("test:8",)))
        while not taken:
            (held,) = queue._worker.held(root)
            threading.Event.wait(held.released, 0.01)
        taken[0].join(120)
    wait_for(jobs)
    assert len(accepted) == 1 and {"test:8.loss", "test:9.loss"} <= {t.key for t in run.scores().targets()}


@pytest.mark.slow
def test_an_engine_that_cannot_be_loaded_fails_what_is_queued_with_the_reason(run, root, monkeypatch):
    exact = builtins.__import__

    def broken(name, *more):
        if name == "engine.jobs.execute":
            raise ImportError("libtorch_cpu.so: cannot open shared object file")
        return exact(name, *more)

    worker = queue._Worker()
    monkeypatch.setattr(queue, "_worker", worker)
    monkeypatch.setattr(builtins, "__import__", broken)
    jobs = JobQueue(root)
    jobs.submit(run.id, Replay(("test:3",)))
    new = runs.Run.open(root, jobs.start(SMALL))
    wait_for(jobs)
    assert new.status == "failed" and "libtorch_cpu.so" in new.manifest().error.what
    assert "libtorch_cpu.so" in run.manifest().error.what and run.status == "finished" and run.manifest().resumable
    assert "libtorch_cpu.so" in jobs.failure and not jobs.loaded.is_set()
    monkeypatch.setattr(builtins, "__import__", exact)
    jobs.resume(new.id)
    wait_for(jobs)
    assert new.status == "finished" and jobs.failure == "" and jobs.loaded.is_set()
    worker.stop()


@pytest.mark.slow
def test_a_stopped_queue_leaves_its_runs_as_after_a_kill(run, root, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    hold(monkeypatch, begun, go_on)
    jobs = JobQueue(root)
    jobs.submit(run.id, Replay(("test:3",)))
    begun.wait()
    waiting = runs.Run.open(root, jobs.start(SMALL))
    stopping = threading.Thread(target=jobs.stop)
    stopping.start()
    for held in queue._worker.held(root):
        held.cancel.wait(120)
    go_on.set()
    stopping.join(120)
    assert waiting.status == "interrupted" and waiting.manifest().resumable and not waiting.lock().is_held()
    assert run.status == "finished" and run.manifest().resumable and run.manifest().error is None
    assert not (run.path / "log.txt").exists() and run.events()[0][-1]["kind"] != "failed"
    jobs.resume(run.id)  # the worker is started again
    wait_for(jobs)
    assert run.status == "finished" and not run.manifest().resumable


@pytest.mark.slow
def test_an_interrupted_training_is_no_failure(quick):
    cancel = Cancel()
    run = runs.Run.create(quick.root, quick.manifest().config)
    with pytest.raises(CancelledError):
        do(run, cancel=cancel, on_event=lambda e: cancel.interrupt() if e.get("phase") == "train" else None)
    assert run.status == "interrupted" and run.manifest().resumable and run.manifest().error is None
    assert do(run).scores == "loss-000"


def test_what_the_system_refuses_in_a_job_is_a_sentence(run):
    """Whatever call it refuses, also one that nobody thought of."""

    @dataclasses.dataclass(frozen=True)
    class Refused(Job):
        kind = "refused"
        stages = ("prepare", "done")

        def check(self, run, dataset):
            return self

        def do(self, session):
            raise PermissionError(13, "Permission denied", str(session.run.path / "trajectory" / "x"))

    with pytest.raises(PermissionError):
        do(run, Refused())
    error = run.manifest().error
    assert error.what == f"{run.path / 'trajectory' / 'x'} cannot be written (Permission denied)."
    assert "Make the folder writable" in error.remedy


def cancelled_in(run: runs.Run, phase: str, job: Job | None = None) -> None:
    cancel = threading.Event()
    with every_step_told(), pytest.raises(CancelledError):
        do(run, job, cancel=cancel, on_event=lambda event: cancel.set() if event.get("phase") == phase else None)
    assert run.manifest().error.kind == "cancelled" and run.manifest().resumable


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["prepare", "train", "evaluate", "replay"])
def test_a_new_run_is_cancelled_in_any_phase_and_goes_on_to_the_same_scores(quick, phase):
    run = runs.Run.create(quick.root, quick.manifest().config)
    cancelled_in(run, phase)
    assert run.status == "cancelled" and run.manifest().trained == (phase in ("evaluate", "replay"))
    do(run)
    assert np.array_equal(run.scores().matrix("loss-000"), quick.scores().matrix("loss-000"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "job, phases",
    [
        (Replay(("test:3",), "loss", "recompute"), ("prepare", "replay")),
        (Rebuild("recompute"), ("prepare", "rebuild")),
        (Validate(5), ("prepare", "retrain")),
        (WhatIf.of([3]), ("prepare", "retrain")),
        (Smoothness(1), ("prepare", "retrain")),
        (Curvature(2), ("prepare", "retrain")),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_a_job_of_any_kind_is_cancelled_in_any_phase_and_goes_on(run, job, phases):
    for phase in phases:
        cancelled_in(run, phase, job)
        assert run.status == "finished" and [left.kind for left in unfinished(run)] == [job.kind]
    result = do(run)
    assert unfinished(run) == () and run.manifest().error is None
    assert result.scores or result.reports or run.manifest().kept_mode == "recompute"


RETURNS = """
import sys, threading
from pathlib import Path
from engine.jobs import execute, queue  # what is loaded before the process is one of four
from engine.jobs.queue import JobQueue
from engine.runs.events import EventLog
from tests.forked import one_of
from tests.made_up import SMALL

phase, mode = one_of([case.split() for case in sys.argv[2:]])
reached, append = threading.Event(), EventLog.append
def told(self, kind, **fields):
    if kind == "phase" and fields["phase"] == phase:
        reached.set()
        queue._worker._current.cancel.wait()  # the work that is left is not done before the process ends
    return append(self, kind, **fields)
EventLog.append = told
JobQueue.of(Path(sys.argv[1]) / f"{phase}-{mode}").start(SMALL.replace(replay_mode=mode, **{"recipe.epochs": 4}))
assert reached.wait(120)
"""


@pytest.mark.slow
def test_a_process_whose_main_function_returns_ends_within_a_step(root):
    """As Streamlit does on SIGTERM: main returns, and the interpreter ends beside the worker."""
    cases = [(phase, mode) for phase in ("train", "replay") for mode in ("disk", "memory")]
    folders = [runs.outputs_root(root / "-".join(case)) for case in cases]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    call = [sys.executable, "-c", RETURNS, str(root), *map(" ".join, cases)]
    done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == "0 0 0 0\n", done.stderr
    assert "Traceback" not in done.stderr and "terminate called" not in done.stderr
    for folder, (phase, mode) in zip(folders, cases, strict=True):
        (run,) = runs.list_runs(folder)
        assert run.manifest().config.replay_mode == mode and phase in {e.get("phase") for e in run.events()[0]}
        assert run.status == "interrupted" and run.manifest().resumable and run.manifest().error is None
        assert not (run.path / "log.txt").exists()


@pytest.mark.slow
def test_a_disk_that_is_full_at_a_jobs_start_pauses_it(run, root, monkeypatch):
    """Also where the submission cannot be recorded: the worker records it, once there is space."""
    full = threading.Event()
    full.set()
    exact = files.write_bytes

    def refusing(path, content):
        if full.is_set() and path.parent.name == run.id:
            raise StorageError(f"No space left to write {path}.", "Free space.", passing=True)
        return exact(path, content)

    monkeypatch.setattr(files, "write_bytes", refusing)
    monkeypatch.setattr(space, "LOOK_AGAIN", 0.01)
    paused = threading.Event()
    append = run.events_log.append

    def told(self, kind, **fields):
        if kind == "paused":
            paused.set()
        return append(kind, **fields)

    monkeypatch.setattr(type(run.events_log), "append", told)
    jobs = JobQueue(root)
    jobs.submit(run.id, Replay(("test:3",)))
    assert paused.wait(120) and unfinished(run) == ()
    full.clear()
    wait_for(jobs)
    assert "test:3.loss" in {t.key for t in run.scores().targets()} and run.status == "finished"


# -- before a run, and after it


def test_sizes_follow_from_integers_alone():
    config = SMALL.replace(**{"recipe.epochs": 3, "recipe.batch_size": 1000, "targets": ("test:0", "class:2")})
    sizes = estimate.sizes_of(config, Sizes(6000, 1000, 10), state=1000, full=2000)
    assert (sizes.steps, sizes.segment) == (18, 5)
    assert sizes.kept == {"memory": 0, "disk": 18 * 1512, "recompute": 4 * 2512}
    assert sizes.states == {"memory": 18_000, "disk": 8_000, "recompute": 5_000}
    assert sizes.resume == 2 * 2000 + 4 * 2 * 6000
    assert sizes.rest > 2000 + 4 * 7000 * 10 + 4 * 2 * 6000
    wider = estimate.sizes_of(config.replace(precision="float64"), Sizes(6000, 1000, 10), state=1000, full=2000)
    assert wider.resume == 2 * 2000 + 8 * 2 * 6000


def test_nothing_is_measured_on_a_gpu_that_a_job_uses(run):
    estimate.check_device_is_free("cuda", run.root)
    with run.lock():
        estimate.check_device_is_free("cpu", run.root)  # there it is slower, and no more
        with pytest.raises(ConfigError, match=f"in use by run {run.id}"):
            estimate.check_device_is_free("cuda", run.root)


def test_a_model_is_built_once_for_all_that_it_predicts(run, monkeypatch):
    built, build = [], models.build
    monkeypatch.setattr(models, "build", lambda *given: built.append(given) or build(*given))
    predict._trained.cache_clear()
    images = datasets.load(SMALL.dataset).test_images[:3]
    expected, answers = run.manifest().test_logits()[:3], []
    threads = [threading.Thread(target=lambda: answers.append(predict.logits(run, images))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1 and len(answers) == 4
    for answer in answers:
        np.testing.assert_allclose(answer, expected, atol=1e-5)
    path = run.path / "model" / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="has changed"):
        predict.logits(run, images)
