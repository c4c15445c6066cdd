"""Runs on disk, the worker and the command line: what users type wrong, and what machines do."""

import dataclasses
import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from engine import config as configs
from engine import files, space
from engine.__main__ import main
from engine.analysis import target_view
from engine.analysis.ranking import rank
from engine.datasets import registry as dataset_registry
from engine.errors import (
    CancelledError,
    ConfigError,
    DataError,
    DivergedError,
    IntegrityError,
    RunBusyError,
    RunNotFoundError,
    StorageError,
)
from engine.jobs import estimate, session
from engine.jobs import execute as work
from engine.jobs.job import Result
from engine.jobs.queue import JobQueue
from engine.jobs.rebuild import Rebuild
from engine.jobs.replay import Replay
from engine.runs import run as runs
from engine.runs.events import EventLog
from engine.runs.progress import Progress, follow
from engine.targets import Target
from tests.helpers import ROOT, wait_for
from tests.made_up import SMALL
from tools.hold import every_step_told


def execute(root: Path, config=SMALL, **kwargs) -> runs.Run:
    run = runs.Run.create(root, config)
    with run.lock():
        work.execute(run, **kwargs)
    return run


def attribute(run: runs.Run, *targets: str, function: str = "loss", mode: str | None = None) -> str:
    with run.lock():
        return work.execute(run, Replay(targets, function, mode or "")).scores


def scores_of(run: runs.Run, name: str) -> np.ndarray:
    """Looked up after the job that wrote them."""
    return run.scores().matrix(name)


# -- a run explains itself


def test_a_finished_run_holds_what_it_says(run):
    assert run.status == "finished"
    names = {p.relative_to(run.path).as_posix() for p in run.path.rglob("*") if p.is_file()}
    assert {
        "config.json",
        "manifest.json",
        "events.jsonl",
        "model/state.safetensors",
        "model/test_logits.npy",
        "model/digests.json",
        "scores/loss-000.npy",
        "scores/loss-000.json",
    } <= names
    assert sum("trajectory/step-" in n for n in names) == 6
    assert not any(".tmp-" in n or n.endswith(".spare") for n in names)
    manifest = run.manifest()
    for relative, sha in manifest.files.items():
        assert files.sha256_of(run.path / relative) == sha
    assert manifest.steps == 6 and manifest.timings.keys() >= {"train_seconds", "replay_seconds"}
    assert manifest.peak_bytes["rss"] > 0 and manifest.versions["torch"]
    sidecar = run.scores().sidecars()[0]
    assert [t["name"] for t in sidecar["targets"]] == ["test:0", "class:2"]
    assert sidecar["target_function"] == "loss" and "nats" in sidecar["unit"] and "harmful" in sidecar["sign"]
    scores = run.scores().matrix("loss-000")
    assert scores.dtype == np.float32 and scores.shape == (2, 6000) and np.abs(scores).min(0).max() > 0
    events, _ = run.events()
    assert [e["kind"] for e in events if e["kind"] != "progress"][0] == "started"
    told = follow(Progress(), events)
    assert told.phase == "done" and len(told.losses) == 6
    assert told.meters["rss"] > 0 and told.meters["disk_free"] > 0


@pytest.mark.slow
def test_the_estimate_is_the_size_that_a_run_has(run, root):
    """Bytes within 5 %; 48 steps, so that the states outweigh the small files."""
    for mode in configs.REPLAY_MODES:
        config = SMALL.replace(replay_mode=mode, targets=("test:0",), **{"recipe.epochs": 2, "recipe.batch_size": 250})
        told = estimate.estimate(config, run.root)
        assert told.steps == 48 and told.segment == 7 and told.modes[mode].problem == ""
        used = files.size_of(execute(root, config).path)
        assert used == pytest.approx(told.modes[mode].disk, rel=0.05), mode
    assert told.modes["memory"].disk < told.modes["recompute"].disk < told.modes["disk"].disk


def test_the_estimator_refuses_only_what_cannot_fit(run, monkeypatch):
    told = estimate.estimate(SMALL, run.root)
    need = told.modes["disk"].disk_peak + space.RESERVE
    for free, fits in ((need, True), (need - 1, False)):
        monkeypatch.setattr(space, "disk_free", lambda path, free=free: free)
        problem = estimate.estimate(SMALL, run.root).modes["disk"].problem
        assert (problem == "") == fits
    assert problem.startswith("disk:") and "MB needed" in problem and "MB free" in problem
    assert estimate.estimate(SMALL, run.root).recommended == "memory"


def test_views_agree_with_torch(run):
    import torch

    dataset = dataset_registry.load("fashion-mnist-sample")
    view = target_view.view(run.manifest(), dataset, Target.parse("test:0"))
    logits, label = torch.from_numpy(np.array(run.manifest().test_logits()))[0].double(), int(dataset.test_labels[0])
    assert view.values["loss"] == pytest.approx(
        torch.nn.functional.cross_entropy(logits[None], torch.tensor([label])).item()
    )
    others = torch.cat([logits[:label], logits[label + 1 :]])
    assert view.values["margin"] == pytest.approx((logits[label] - others.logsumexp(0)).item())
    assert view.probability == pytest.approx(logits.softmax(0)[label].item())
    assert run.scores().sidecars()[0]["targets"][0]["value"] == pytest.approx(view.values["loss"], rel=1e-4)
    assert target_view.view(run.manifest(), dataset, Target.parse("class:2")).members.indices.size == 100
    wrong = target_view.misclassified(run.manifest(), dataset)
    assert 1 - len(wrong) / 1000 == pytest.approx(run.manifest().test_accuracy)


@pytest.mark.parametrize("function, sign", [("loss", 1), ("margin", -1)])
def test_ranking_by_partition_equals_sorting(function, sign):
    scores = np.random.default_rng(0).normal(size=500)
    ranking = rank(scores, function, 12)
    order = np.argsort(sign * scores)
    assert ranking.helpful.tolist() == order[:12].tolist()
    assert ranking.harmful.tolist() == order[::-1][:12].tolist()
    assert rank(np.array([0.0, 1.0]), "loss", 12).helpful.size == 0


@pytest.mark.slow
def test_further_targets_need_no_training_and_repeat_bitwise(run):
    name = attribute(run, "test:0")
    first = run.scores().matrix("loss-000")[0]
    assert name == "loss-001" and np.allclose(run.scores().matrix(name)[0], first, rtol=1e-4, atol=1e-7)
    again = attribute(run, "test:0")
    assert np.array_equal(run.scores().matrix(again), run.scores().matrix(name))
    assert run.scores().target("test:0.loss").score_set == "loss-002"  # the newest of the same name
    assert len([e for e in run.events()[0] if e["kind"] == "phase" and e["phase"] == "train"]) == 1


@pytest.mark.parametrize("mode", configs.REPLAY_MODES)
@pytest.mark.slow
def test_a_run_replays_in_every_mode_whatever_it_kept_with_bitwise_the_same_scores(mode, quick, root):
    config = quick.manifest().config
    other = execute(root, config.replace(replay_mode=mode))
    expected = quick.scores().matrix("loss-000")
    assert np.array_equal(other.scores().matrix("loss-000"), expected)
    assert other.manifest().kept_mode == {"memory": None, "disk": "disk", "recompute": "recompute"}[mode]
    assert (other.storage().sizes()["trajectory"] == 0) == (mode == "memory")
    for again in configs.REPLAY_MODES:
        ready = other.manifest().modes()[again]
        assert np.array_equal(scores_of(other, attribute(other, *config.targets, mode=again)), expected)
        trained_again = other.manifest().steps_recomputed
        # All steps once; recompute mode without checkpoints makes them on the way to the last segment.
        steps = {"memory": 10, "disk": 10, "recompute": 10 + 8}[again]
        assert trained_again == ((10 if again == "recompute" else 0) if ready else steps), (mode, again)
        names = {p.name.split("-")[0] for p in (other.path / "trajectory").iterdir()}
        assert names == ({"disk": {"step"}, "recompute": {"full"}, None: set()}[other.manifest().kept_mode])
        assert again == "memory" or other.manifest().kept_mode == again
    assert len([e for e in other.events()[0] if e["kind"] == "phase" and e["phase"] == "train"]) == 1


@pytest.mark.slow
def test_a_run_without_trajectory_says_what_it_can_do_and_is_rebuilt_by_one_call(run):
    before = {p.name: p.stat().st_size for p in (run.path / "trajectory").iterdir()}
    run.storage().clean(("trajectory",))
    assert run.manifest().modes() == {"memory": False, "disk": False, "recompute": False}
    with pytest.raises(ConfigError, match="keeps no trajectory") as error:
        attribute(run, "test:1")
    assert "name a mode" in error.value.remedy
    with run.lock():
        assert work.execute(run, Rebuild("disk")) == Result()
    assert {p.name: p.stat().st_size for p in (run.path / "trajectory").iterdir()} == before
    assert run.manifest().modes()["disk"] and run.status == "finished" and not run.manifest().resumable
    assert np.array_equal(scores_of(run, attribute(run, *SMALL.targets)), run.scores().matrix("loss-000"))


def test_a_rebuild_that_gives_other_states_is_an_error_that_says_so(run, monkeypatch):
    run.storage().clean(("trajectory",))
    exact = session.advance

    def inexact(*arguments):
        state = exact(*arguments)
        return state._replace(theta=state.theta * (1 + 1e-7))

    monkeypatch.setattr(session, "advance", inexact)
    with run.lock(), pytest.raises(IntegrityError, match="is not the one that training went through"):
        work.execute(run, Rebuild("disk"))
    assert run.manifest().kept_mode is None and "is not the one" in run.manifest().error.what


@pytest.mark.slow
def test_a_damaged_step_is_trained_again_and_said(run):
    (run.path / "trajectory" / "step-0000003.safetensors").write_bytes(b"")
    name = attribute(run, *SMALL.targets)
    assert np.array_equal(run.scores().matrix(name), run.scores().matrix("loss-000"))
    notes = [e["text"] for e in run.events()[0] if e["kind"] == "note"]
    assert any("step-0000003.safetensors is damaged" in t and "to rebuild 1 of them" in t for t in notes)


@pytest.mark.slow
def test_the_checkpoints_go_by_themselves_where_that_was_asked(root):
    run = execute(root, SMALL.replace(clean_when_done=True))
    assert (
        run.status == "finished"
        and run.scores().targets()
        and run.manifest().kept_mode is None
        and run.storage().sizes()["trajectory"] == 0
    )


@pytest.mark.slow
def test_a_given_space_is_kept_to(root):
    config = SMALL.replace(targets=("test:0",), replay_mode="recompute", checkpoint_mb=0.05, **{"recipe.epochs": 2})
    run = execute(root, config)
    assert run.manifest().trajectory.every == 6 and 0 < run.storage().sizes()["trajectory"] <= 50_000
    with pytest.raises(ConfigError, match="Not one checkpoint"):
        execute(root, config.replace(checkpoint_mb=0.01))


# -- bad input


@pytest.mark.parametrize(
    "change, field",
    [
        ({"recipe.epochs": 0}, "recipe.epochs"),
        ({"recipe.epochs": 1.5}, "recipe.epochs"),
        ({"recipe.batch_size": -5}, "recipe.batch_size"),
        ({"recipe.batch_size": 6001}, "recipe.batch_size"),
        ({"recipe.peak_lr": 0.0}, "recipe.peak_lr"),
        ({"recipe.peak_lr": float("nan")}, "recipe.peak_lr"),
        ({"recipe.momentum": 1.0}, "recipe.momentum"),
        ({"recipe.momentum": 0.0}, "recipe.nesterov"),
        ({"recipe.weight_decay": -1.0}, "recipe.weight_decay"),
        ({"recipe.schedule": "steps"}, "recipe.schedule"),
        ({"recipe.seed": True}, "recipe.seed"),
        ({"width": 0.0}, "width"),
        ({"model": "vit"}, "model"),
        ({"replay_mode": "cloud"}, "replay_mode"),
        ({"targets": ()}, "targets"),
        ({"targets": ("test:1000",)}, "targets"),
        ({"targets": ("test:-1",)}, "targets"),
        ({"targets": ("class:10",)}, "targets"),
        ({"targets": ("../x",)}, "targets"),
        ({"targets": ("test:1", "test:1")}, "targets"),
        ({"segment": -1}, "segment"),
        ({"segment": 3, "checkpoint_mb": 5.0}, "segment"),
        ({"checkpoint_mb": -1.0}, "checkpoint_mb"),
    ],
)
def test_every_bad_setting_is_named_before_anything_starts(root, change, field):
    config = SMALL.replace(**change)
    with pytest.raises(ConfigError) as error:
        JobQueue(root).start(config)
    assert list(error.value.problems) == [field] and error.value.remedy
    assert field.removesuffix("s") in str(error.value)  # «The target test:1000 …»
    assert list(root.iterdir()) == []


def test_an_unknown_preset_is_named():
    with pytest.raises(ConfigError, match="no preset «huge»"):
        configs.preset("huge")


@pytest.mark.parametrize("run_id", ["../x", "a/b", "/etc", "..", "", "A", "x" * 65, "a\n"])
def test_a_run_id_cannot_leave_the_folder(root, run_id):
    with pytest.raises(ConfigError, match="no run id"):
        runs.Run.open(root, run_id)


def test_a_link_is_no_run_and_nothing_outside_is_deleted(root, tmp_path, run):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("x")
    (root / "linked").symlink_to(outside)
    with pytest.raises(RunNotFoundError):
        runs.Run.open(root, "linked")
    with pytest.raises(StorageError):
        runs.Run(root, "linked").storage().delete()
    shutil.rmtree(run.path / "scores")
    (run.path / "scores").symlink_to(outside)
    with pytest.raises(StorageError):
        run.storage().clean(("scores",))
    (run.path / "trajectory" / "link").symlink_to(outside)
    run.storage().clean(("trajectory",))
    run.storage().delete()
    assert (outside / "keep").exists() and not run.path.exists()


@pytest.mark.slow
def test_a_diverging_run_fails_at_its_step_keeps_what_it_has_and_writes_no_scores(root):
    config = SMALL.replace(
        **{
            "recipe.peak_lr": 100.0,
            "recipe.schedule": "constant",
            "recipe.warmup": 0.0,
            "recipe.weight_decay": 10.0,
            "recipe.epochs": 8,
        }
    )
    run = runs.Run.create(root, config)
    with run.lock(), pytest.raises(DivergedError, match="step") as error:
        work.execute(run)
    assert run.status == "failed" and run.manifest().error.what == error.value.what
    assert f"step {error.value.step + 1} of 48" in error.value.what
    assert run.scores().sidecars() == [] and list((run.path / "scores").iterdir()) == []
    assert run.storage().sizes()["trajectory"] > 0
    assert "DivergedError" in (run.path / "log.txt").read_text()
    assert run.events()[0][-1]["kind"] == "failed"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', '{"schema": 9}'])
@pytest.mark.parametrize("recorded", [True, False])
def test_a_corrupt_config_is_named(run, text, recorded):
    (run.path / "config.json").write_text(text)
    if recorded:
        run.add_files({"config.json": files.sha256_of(run.path / "config.json")})
    with pytest.raises((ConfigError, IntegrityError), match="config.json") as error:
        run.manifest().config
    assert error.value.remedy


def test_a_corrupt_config_value_or_manifest_is_named(run):
    values = json.loads((run.path / "config.json").read_text())
    values["recipe"]["epochs"] = "many"
    (run.path / "config.json").write_text(json.dumps(values))
    with pytest.raises(IntegrityError, match="has changed"):
        run.manifest().config
    run.add_files({"config.json": files.sha256_of(run.path / "config.json")})
    with pytest.raises(ConfigError, match="recipe.epochs"):
        run.manifest().config
    manifest = json.loads((run.path / "manifest.json").read_text())
    (run.path / "manifest.json").write_text(json.dumps({**manifest, "test_accuracy": 0.99}))
    with pytest.raises(IntegrityError, match="manifest.json has changed"):
        run.manifest()
    (run.path / "manifest.json").write_text("nonsense")
    assert run.status == "damaged"
    assert run.storage().delete() > 0


def test_changed_scores_are_found(run):
    path = run.path / "scores" / "loss-000.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="has changed"):
        run.scores().matrix("loss-000")
    path.unlink()
    with pytest.raises(IntegrityError, match="missing"):
        run.scores().matrix("loss-000")


def test_changed_settings_or_data_are_found_before_a_replay(run, monkeypatch):
    config = json.loads((run.path / "config.json").read_text())
    config["recipe"]["seed"] = 7
    run.add_files({"config.json": files.write_json(run.path / "config.json", config)})
    with pytest.raises(IntegrityError, match="not the one it was trained with"):
        attribute(run, "test:1")
    sample = dataset_registry.load("fashion-mnist-sample")
    images = sample.train_images.copy()
    images[0, 0, 0, 0] ^= 1
    monkeypatch.setattr(dataset_registry, "load", lambda name: dataclasses.replace(sample, train_images=images))
    with pytest.raises(DataError, match="has changed"):
        attribute(run, "test:1")


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        runs.outputs_root(tmp_path / "file")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    # Root may write anywhere, so for root the answer of the system is put in its place.
    if os.geteuid() == 0:
        monkeypatch.setattr(os, "access", lambda *a, **k: False)
    with pytest.raises(StorageError, match="cannot be written"):
        runs.outputs_root(closed)


@pytest.mark.slow
def test_no_space_left_fails_with_its_remedy(tmp_path):
    """A file-size limit of the system stands for the full disk: the same refusal to write."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (70000, 70000)); "
        "from engine.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            "run",
            "--targets",
            "test:0",
            "--set",
            "recipe.epochs=1",
            "--outputs",
            str(tmp_path),
            "--set",
            "recipe.batch_size=1000",
            "--set",
            "width=2",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert "No space left to write" in done.stderr and "Free space" in done.stderr
    (run,) = runs.list_runs(tmp_path)
    assert run.status == "failed" and "No space left" in run.manifest().error.what
    assert not any(p.name.startswith(".tmp-") for p in run.path.rglob("*"))


# -- cleaning, locks, crashes


def test_cleaning_frees_what_it_says(run):
    before = files.size_of(run.path)
    promised = run.storage().clean(("trajectory",), dry_run=True)
    assert files.size_of(run.path) == before and promised == run.storage().sizes()["trajectory"] > 0
    assert run.storage().clean(("trajectory",)) == promised and run.storage().sizes()["trajectory"] == 0
    assert run.scores().targets() and run.status == "finished"
    assert run.storage().clean(("scores",)) > 0 and run.scores().targets() == []
    (run.path / "validation" / "x.json").write_text("{}")
    assert run.storage().clean(("validation", "logs")) > 2 and run.storage().sizes()["validation"] == 0
    assert [e["kind"] for e in run.events()[0]] == ["cleaned"]
    with pytest.raises(ConfigError, match="cannot be cleaned"):
        run.storage().clean(("..",))
    total = files.size_of(run.path)
    assert run.storage().delete(dry_run=True) == total == run.storage().delete()
    with pytest.raises(RunNotFoundError):
        runs.Run.open(run.root, run.id)


@pytest.mark.slow
def test_a_run_in_use_cannot_be_cleaned_or_worked_on(run):
    with run.lock():
        for act in (lambda: run.storage().clean(("trajectory",)), run.storage().delete, run.lock().acquire):
            with pytest.raises(RunBusyError):
                act()


@pytest.mark.slow
def test_a_half_done_deletion_is_finished_and_temporary_files_go(run, root):
    shutil.copytree(run.path, root / f".deleted-{run.id}")
    (root / ".deleted-not ours").mkdir()
    (run.path / "trajectory" / ".tmp-abc").write_bytes(b"x")
    os.utime(run.path / "trajectory" / ".tmp-abc", (0, 0))  # a young one may belong to a living process
    JobQueue(root)
    assert sorted(p.name for p in root.iterdir()) == [".deleted-not ours", run.id]
    attribute(run, "test:1")
    assert not list(run.path.rglob(".tmp-*"))


@pytest.mark.slow
def test_a_cancelled_run_goes_on_where_it_stopped(root, made):
    cancel, steps = threading.Event(), []

    def on_event(event):
        if event["kind"] == "progress" and event["phase"] == "replay":
            steps.append(event["step"])
            if event["step"] >= 3:
                cancel.set()

    run = runs.Run.create(root, SMALL)
    with every_step_told(), run.lock(), pytest.raises(CancelledError):
        work.execute(run, cancel=cancel, on_event=on_event)
    stopped = steps[-1]
    assert stopped == 3 and run.status == "cancelled" and run.manifest().resumable and run.scores().sidecars() == []
    assert run.events()[0][-1]["kind"] == "cancelled"
    with run.lock():
        work.execute(run)
    assert run.status == "finished" and not run.manifest().resumable
    assert np.array_equal(run.scores().matrix("loss-000"), runs.Run(made.parent, made.name).scores().matrix("loss-000"))
    resumed = [e for e in run.events()[0] if e["kind"] == "phase" and e["phase"] == "replay"][-1]
    assert 0 < resumed["done"] <= stopped
    with run.lock(), pytest.raises(ConfigError, match="nothing left to do"):
        work.execute(run)


def test_the_event_log_survives_half_a_line(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.append("started")
    with log.path.open("a") as file:
        file.write('{"kind": "prog')
    events, offset = log.read()
    assert [e["kind"] for e in events] == ["started"]
    log.append("finished")
    assert [e["kind"] for e in log.read(offset)[0]] == ["unreadable", "finished"]
    log.path.write_bytes(log.path.read_bytes().replace(b"finished", b"finishes"))
    assert [e["kind"] for e in log.read()[0]] == ["started", "unreadable"], "neighbours are said once"


def test_progress_follows_a_resumed_training_and_a_pause():
    def told(*events):
        return follow(Progress(), [{"time": float(i), **e} for i, e in enumerate(events)])

    losses = {
        "kind": "progress",
        "phase": "train",
        "step": 6,
        "steps": 9,
        "losses": [6.0, 5, 4, 3, 2, 1],
        "rates": [1.0] * 6,
    }
    again = told(
        {"kind": "phase", "phase": "train", "steps": 9, "done": 0},
        losses,
        {"kind": "started"},
        {"kind": "phase", "phase": "train", "steps": 9, "done": 4},
    )
    assert again.losses == [6, 5, 4, 3] and again.step == 4 and again.fraction == pytest.approx(4 / 9)
    full = {"kind": "paused", "needed": 20, "disk_free": 10}
    assert told(full).paused == {"needed": 20, "disk_free": 10} and told(full, {"kind": "continued"}).paused is None
    assert told(full, {"kind": "cancelled"}).paused is None
    long = told(*({"kind": "progress", "phase": "replay", "step": i, "steps": 5000, "rss": i} for i in range(5000)))
    minutes, values = long.points("rss")
    assert 300 <= len(values) <= 700 and values[-1] == 4999 and minutes[-1] == pytest.approx(4999 / 60)


def test_the_outputs_folder_may_be_a_link_and_only_what_is_in_it_is_deleted(tmp_path, made):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "link").symlink_to(elsewhere)
    root = runs.outputs_root(tmp_path / "link")
    shutil.copytree(made, root / made.name)
    assert main(["clean", made.name, "--all", "--outputs", str(tmp_path / "link")]) == 0
    assert list(elsewhere.iterdir()) == [] and (tmp_path / "link").is_symlink()


# -- the worker thread


@pytest.mark.slow
def test_jobs_queue_run_one_at_a_time_cancel_and_outlive_errors(quick, monkeypatch):
    root, small = quick.root, quick.manifest().config
    queue, go_on = JobQueue(root), threading.Event()
    exact = work.opened
    monkeypatch.setattr(work, "opened", lambda *given: go_on.wait() and exact(*given))
    first = runs.Run.open(root, queue.start(small))
    diverges = {"recipe.peak_lr": 100.0, "recipe.weight_decay": 10.0, "recipe.epochs": 8}
    constant = {"recipe.schedule": "constant", "recipe.warmup": 0.0}
    bad = runs.Run.open(root, queue.start(small.replace(**diverges, **constant)))
    third = runs.Run.open(root, queue.start(small))
    assert third.status == "queued" and queue.active() == [first.id, bad.id, third.id]
    with pytest.raises(RunBusyError):
        queue.submit(third.id, Replay(("test:1",)))
    assert queue.cancel(third.id)
    go_on.set()
    wait_for(queue)
    assert (first.status, bad.status, third.status) == ("finished", "failed", "cancelled")
    assert not queue.cancel(first.id)
    queue.submit(first.id, Replay(("test:5",), "margin"))
    wait_for(queue)
    assert first.scores().target("test:5.margin").score_set == "margin-001"
    with pytest.raises(ConfigError, match="nothing left to do"):
        queue.resume(first.id)
    queue.resume(third.id)
    wait_for(queue)
    assert np.array_equal(third.scores().matrix("loss-000"), first.scores().matrix("loss-000"))
    third.storage().clean(("trajectory",))
    queue.submit(third.id, Rebuild("recompute"))
    wait_for(queue)
    assert third.status == "finished" and third.manifest().kept_mode == "recompute"


# -- the command line


@pytest.mark.slow
def test_command_line_from_run_to_clean(tmp_path, capsys):
    outputs = ["--outputs", str(tmp_path)]
    assert (
        main(
            [
                "run",
                *outputs,
                "--targets",
                "test:0,test:1",
                "--set",
                "recipe.epochs=1",
                "--set",
                "recipe.batch_size=1000",
                "--set",
                "width=0.125",
            ]
        )
        == 0
    )
    (run,) = runs.list_runs(tmp_path)
    assert f"{run.path}/scores/loss-000.npy" in capsys.readouterr().out
    assert np.load(run.path / "scores" / "loss-000.npy", allow_pickle=False).shape == (2, 6000)
    assert main(["attribute", run.id, *outputs, "--targets", "class:1", "--function", "margin"]) == 0
    assert main(["list", *outputs]) == 0 and "finished" in capsys.readouterr().out
    assert main(["storage", *outputs]) == 0 and run.id in capsys.readouterr().out
    assert main(["resume", run.id, *outputs]) == 2 and "nothing left to do" in capsys.readouterr().err
    assert main(["info", run.id, *outputs]) == 0
    assert json.loads(capsys.readouterr().out)["targets"] == ["test:0.loss", "test:1.loss", "class:1.margin"]
    assert main(["clean", run.id, *outputs, "--parts", "trajectory", "--dry-run"]) == 0
    assert run.storage().sizes()["trajectory"] > 0
    assert main(["clean", run.id, *outputs, "--parts", "trajectory"]) == 0
    assert main(["attribute", run.id, *outputs, "--targets", "test:2"]) == 2
    assert "keeps no trajectory" in capsys.readouterr().err
    assert main(["attribute", run.id, *outputs, "--targets", "test:2", "--mode", "memory"]) == 0
    assert main(["rebuild", run.id, *outputs, "--mode", "recompute"]) == 0 and run.manifest().kept_mode == "recompute"
    assert main(["clean", run.id, *outputs, "--all"]) == 0 and not run.path.exists()


@pytest.mark.slow
def test_estimate_on_the_command_line_measures_and_recommends(tmp_path, capsys):
    assert main(["estimate", "--outputs", str(tmp_path), "--targets", "test:0", "--set", "recipe.batch_size=1000"]) == 0
    said = capsys.readouterr().out
    assert all(mode in said for mode in configs.REPLAY_MODES) and "recommended: disk" in said
    assert list(tmp_path.iterdir()) == [], "the measurement leaves nothing behind"


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (["run", "--preset", "huge"], 2, "no preset «huge»"),
        (["run", "--targets", "test:5000"], 2, "out of range"),
        (["run", "--set", "recipe.epochs=none"], 2, "is no number"),
        (["run", "--set", "epoch=3"], 2, "known name"),
        (["run", "--set", "recipe.batch_size=7000"], 2, "larger than the data set"),
        (["info", "nope"], 3, "no run nope"),
        (["info", "../etc"], 2, "no run id"),
        (["clean", "nope", "--all"], 3, "no run nope"),
    ],
)
def test_command_line_errors_say_what_and_exit_with_their_code(tmp_path, capsys, arguments, code, said):
    assert main([*arguments, "--outputs", str(tmp_path)]) == code
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_help_teaches(capsys):
    for command in ([], ["run"]):
        with pytest.raises(SystemExit) as done:
            main([*command, "--help"])
        assert done.value.code == 0
    said = capsys.readouterr().out
    assert "python -m engine run --preset sample" in said and "recipe.peak_lr" in said


def test_locks_are_let_go_at_the_end(run):
    with run.lock():
        assert run.lock().is_held()
    assert not run.lock().is_held()
    with open(run.path / ".lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
