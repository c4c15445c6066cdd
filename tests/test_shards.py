"""Sets of targets in parts, and shards that know nothing of each other: bits, resumes, and what merging refuses."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from engine import files
from engine.__main__ import main
from engine.analysis import cost, trust
from engine.errors import CancelledError, ConfigError, IntegrityError, RunBusyError
from engine.jobs import parts, shards
from engine.jobs.execute import execute
from engine.jobs.merge import merge
from engine.jobs.parts import Part, Shard, TargetSet
from engine.jobs.replay import Replay
from engine.jobs.retrained import groups_of
from engine.jobs.validation import Validate
from engine.runs import progress
from engine.runs import run as runs
from engine.trajectory.state_files import read_with_header, save_state
from tests.helpers import show

ROOT = Path(__file__).parents[1]

TEN = tuple(f"test:{i}" for i in range(10, 20))  # passes of 4, 4 and 2 on a CPU


def do(run: runs.Run, job, **more):
    with run.lock():
        return execute(run, job, **more)


# -- what is cut where


def test_shares_are_whole_in_their_order_and_as_even_as_can_be():
    assert parts.shares(range(8), 2) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert parts.shares(range(5), 2) == [[0, 1], [2, 3, 4]]
    assert parts.shares(range(1), 3) == [[], [], [0]]
    assert parts.shares([0, 2, 7], 8) == [[], [], [0], [], [], [2], [], [7]]


def test_parts_are_runs_of_whole_passes():
    assert parts.cut(range(3), width=4, targets=10, most=64) == [Part(0, 10)]
    assert parts.cut(range(3), width=4, targets=10, most=8) == [Part(0, 8), Part(8, 10)]
    assert parts.cut(range(3), width=4, targets=10, most=2) == [Part(0, 4), Part(4, 8), Part(8, 10)]
    assert parts.cut([0, 2], width=4, targets=10, most=64) == [Part(0, 4), Part(8, 10)]
    assert parts.split([Part(0, 10), Part(12, 16)], {0, 4, 10, 14, 20}) == [
        Part(0, 4),
        Part(4, 10),
        Part(12, 14),
        Part(14, 16),
    ]
    whole = TargetSet("training", "loss", TEN, 4)
    assert list(whole.passes) == [0, 1, 2] and list(whole.passes_of(Part(4, 10))) == [1, 2]
    assert whole.is_whole(Part(4, 10)) and not whole.is_whole(Part(2, 10)) and not whole.is_whole(Part(4, 9))


# -- one process


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(parts, "TARGETS_A_PART", 4)


@pytest.mark.slow
def test_a_set_in_parts_has_the_bits_of_one_replay_and_leaves_nothing_else(quick, monkeypatch):
    run = quick
    whole = do(run, Replay(TEN)).scores
    monkeypatch.setattr(parts, "TARGETS_A_PART", 4)
    recorded = []
    in_parts = do(run, Replay(TEN), on_event=lambda e: recorded.append(len(run.scores().targets()))).scores
    matrices = [run.scores().matrix(name) for name in (whole, in_parts)]
    assert np.abs(matrices[0]).max() > 0 and np.array_equal(*matrices)
    sidecars = {s["name"]: s for s in run.scores().sidecars()}
    assert sidecars[whole]["targets"] == sidecars[in_parts]["targets"]
    assert sorted(p.name for p in (run.path / "scores").iterdir()) == sorted(
        f"{name}.{suffix}" for name in ("loss-000", whole, in_parts) for suffix in ("npy", "json")
    )
    notes = [e["text"] for e in run.events()[0] if e["kind"] == "note"]
    assert "Targets 5 to 8 of 10 are scored." in notes
    assert any(
        n.startswith("10 of 10 targets in 3 parts, at most about ") and n.endswith("soon as it is done.") for n in notes
    )


@pytest.mark.slow
def test_finished_targets_are_shown_while_others_are_worked_on_and_a_resume_goes_on_after_them(quick, small_parts):
    run = quick
    once = do(run, Replay(TEN, "margin")).scores
    cancel, shown = threading.Event(), []

    def stop(event: dict) -> None:
        if event.get("text") == "Targets 5 to 8 of 10 are scored.":
            cancel.set()

    again = Replay(TEN[::-1], "margin")
    with run.lock(), pytest.raises(CancelledError):
        execute(run, again, cancel, stop)
    scored = {ref.name: ref for ref in run.scores().targets() if ref.function == "margin"}
    shown = [name for name, ref in scored.items() if ref.score_set.startswith("part-")]
    assert sorted(shown) == sorted(TEN[::-1][:8])
    # Not bit for bit: once it was one of two in a pass, now it is one of four.
    np.testing.assert_allclose(run.scores().row(scored[TEN[9]]), run.scores().matrix(once)[9], rtol=1e-3, atol=1e-6)

    phases = []
    name = do(run, None, on_event=lambda e: phases.append(e) if e["kind"] == "phase" else None).scores
    replayed = next(e for e in phases if e["phase"] == "replay")
    assert replayed["steps"] == run.manifest().steps  # of the last part alone
    np.testing.assert_allclose(run.scores().matrix(name), run.scores().matrix(once)[::-1], rtol=1e-3, atol=1e-6)
    assert not list((run.path / "scores").glob("part-*")) and not list((run.path / "scores").glob("plan-*"))


# -- groups of retrainings


def test_groups_are_even_a_power_of_two_of_them_or_each_alone():
    keys = [str(i) for i in range(36)]
    assert [len(group) for group in groups_of(keys, 8)] == [4, 5, 4, 5, 4, 5, 4, 5]
    assert [len(group) for group in groups_of(keys[:4], 8)] == [4]
    assert [len(group) for group in groups_of(keys[:3], 1)] == [1, 1, 1]
    assert [key for group in groups_of(keys, 8) for key in group] == keys


# -- shards


def do_shards(run: runs.Run, job, n: int) -> list[str]:
    """All shards of a job, in this process, the last one first."""
    return [shards.do(run, job, Shard(i, n), lambda event: None) for i in range(n, 0, -1)]


def part_files(run: runs.Run) -> list[Path]:
    return sorted((run.path / "scores").glob("part-*.json"))


@pytest.mark.slow
def test_shards_in_processes_at_the_same_time_merge_to_the_bits_of_one_process(quick, tmp_path):
    """Two processes a job start at once on one run's folder: none waits for another."""
    one = do(quick, Replay(TEN)).scores
    do(quick, Validate(5, (0.05,)))
    reports = trust.reports(quick.manifest())
    kept = {p.name: p.read_bytes() for p in (quick.path / "validation" / "retrained").iterdir()}
    shutil.rmtree(quick.path / "validation" / "retrained")
    manifest = (quick.path / "manifest.json").read_bytes()

    def start(command: list[str], **environment: str) -> subprocess.Popen:
        return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True)

    # The job script of docs/clusters.md, as SLURM would run it.
    script = tmp_path / "shards.sh"
    script.write_text((ROOT / "docs" / "clusters.md").read_text().split("```bash\n")[1].split("```")[0])
    slurm = {
        "SLURM_ARRAY_TASK_COUNT": "2",
        "SLURM_CPUS_PER_TASK": "1",
        "REPLAY_OUTPUTS_DIR": str(quick.root),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    tasks = [{**slurm, "SLURM_ARRAY_TASK_ID": str(i)} for i in (1, 2)]
    validate = [sys.executable, "-m", "engine", "validate", quick.id, "--subsets", "5", "--drop", "0.05"]
    calls = [
        *(start(["bash", str(script), quick.id, ",".join(TEN)], **task) for task in tasks),
        *(start([*validate, "--outputs", str(quick.root), "--shard", f"{i}/2"]) for i in (1, 2)),
    ]
    assert [(call.communicate(timeout=300)[1][-500:], call.returncode)[1] for call in calls] == [0] * 4
    assert (quick.path / "manifest.json").read_bytes() == manifest

    assert main(["merge", quick.id, "--outputs", str(quick.root)]) == 0
    again = quick.scores().sidecars()[-1]["name"]
    assert again != one and np.array_equal(quick.scores().matrix(again), quick.scores().matrix(one))
    assert not part_files(quick) and not list(quick.path.glob("*/plan-*"))
    actual = lambda reports: {t["key"]: t["actual"] for each in reports for t in each["targets"]}  # noqa: E731
    assert len(reports) == 1 and actual(trust.reports(quick.manifest())) == actual(reports)
    for name in kept:  # the same tensors, beside who computed them
        tensors, header = read_with_header(quick.path / "validation" / "retrained" / name, {}, "")
        assert header["shard"] in ("1/2", "2/2")


@pytest.mark.slow
def test_a_shard_that_was_done_is_not_done_again_and_merging_says_what_is_missing(quick):
    job = Replay(TEN)
    with pytest.raises(ConfigError, match="nothing to merge"):
        merge(quick)
    said = shards.do(quick, job, Shard(1, 3), lambda event: None)
    assert "targets 1 to 4 of 10" in said
    before = {p: p.stat().st_mtime_ns for p in part_files(quick)}
    shards.do(quick, job, Shard(1, 3), lambda event: None)
    assert {p: p.stat().st_mtime_ns for p in part_files(quick)} == before
    with pytest.raises(IntegrityError, match=r"targets 5 to 10 are missing \(shard 2/3, shard 3/3\)"):
        merge(quick)
    assert quick.status == "finished" and not quick.manifest().resumable and len(part_files(quick)) == 1

    shards.do(quick, Validate(5), Shard(2, 3), lambda event: None)
    with pytest.raises(IntegrityError, match=r"retrainings are missing: all-1-0, .*shard 1/3, shard 3/3"):
        merge(quick)
    with quick.lock().shared(), pytest.raises(RunBusyError, match="shards, or another job"):
        merge(quick)


@pytest.mark.slow
def test_overlapping_shards_agree_or_are_named_and_foreign_and_damaged_ones_are_named(quick):
    one = do(quick, Replay(TEN)).scores
    do_shards(quick, Replay(TEN), 3)
    merging = lambda said: pytest.raises(IntegrityError, match=said)  # noqa: E731
    first, second, third = part_files(quick)
    content = {p: (p.read_bytes(), p.with_suffix(".npy").read_bytes()) for p in (first, second, third)}

    def put_back() -> None:
        for path, (sidecar, scores) in content.items():
            path.write_bytes(sidecar)
            path.with_suffix(".npy").write_bytes(scores)

    damaged = bytearray(content[second][1])
    damaged[-1] ^= 1
    second.with_suffix(".npy").write_bytes(damaged)
    with merging(f"{second.stem}.npy has changed since it was written"):
        merge(quick)
    put_back()

    second.write_bytes(content[second][0].replace(b'"value"', b'"Value"', 1))
    with merging(f"{second.name} is damaged"):
        merge(quick)
    put_back()

    second.write_bytes(content[third][0])  # a file in another's place
    second.with_suffix(".npy").write_bytes(content[third][1])
    with merging("stands under another part's name.*targets 5 to 8 are missing"):
        merge(quick)
    put_back()

    said = rewritten(content[second][0], training_digest="another")
    second.write_bytes(said)
    with merging(f"{second.name} is foreign"):
        merge(quick)
    put_back()

    said = rewritten(content[second][0], kind="NVIDIA A100-SXM4-80GB, 85 GB")
    second.write_bytes(said)
    with merging(r"was computed on NVIDIA A100-SXM4-80GB, 85 GB, and the set was begun on CPU"):
        merge(quick)
    put_back()

    other = second.with_name(second.name.replace("2of3", "3of4"))
    other.write_bytes(content[second][0])
    scores = np.load(second.with_suffix(".npy"))
    scores[0, 0] += 1
    sha = files.write_npy(other.with_suffix(".npy"), scores)
    other.write_bytes(rewritten(content[second][0], sha256=sha))
    with merging(f"{second.name} and {other.name} both hold targets 5 to 8, with other scores"):
        merge(quick)
    other.with_suffix(".npy").write_bytes(content[second][1])  # the same scores twice are no harm
    other.write_bytes(content[second][0])
    foreign = second.with_name(f"part-{'0' * 16}_00000_00004.json")
    foreign.write_bytes(content[second][0])
    with merging(f"{foreign.name} is foreign: this run has no plan of its set"):
        merge(quick)
    assert quick.scores().sidecars()[-1]["name"] != one  # what is whole was merged all the same
    again = quick.scores().sidecars()[-1]["name"]
    assert np.array_equal(quick.scores().matrix(again), quick.scores().matrix(one))


def rewritten(sidecar: bytes, **changes) -> bytes:
    """A part's sidecar with other values, and the checksum that goes with them."""
    value = json.loads(sidecar)
    del value["checksum"]
    for name, each in changes.items():
        (value["part"] if name in value["part"] else value)[name] = each
    return json.dumps({**value, "checksum": files.json_digest(value)}).encode()


@pytest.mark.slow
def test_kinds_of_devices_are_not_mixed_within_one_set_of_retrainings(quick):
    """A recorded kind in the file of one retraining, and in a plan, as a shard on another host writes them."""
    job, folder = Validate(5), quick.path / "validation" / "retrained"
    do_shards(quick, job, 2)
    path = folder / "0.01-0-3.safetensors"
    tensors, header = read_with_header(path, {}, "")
    ours = header["device"]
    save_state(path, tensors, {**header, "device": "NVIDIA H200, 151 GB"})
    theirs = "was computed on NVIDIA H200, 151 GB, and"
    with pytest.raises(IntegrityError, match=f"0.01-0-3 {theirs} the others on {ours[:6]}"):
        merge(quick)
    with pytest.raises(ConfigError, match=f"Retraining 0.01-0-3 {theirs} this process computes on {ours[:6]}"):
        shards.do(quick, job, Shard(1, 2), lambda event: None)
    (plan,) = (quick.path / "validation").glob("plan-*.json")
    plan.write_text(plan.read_text().replace(ours, "NVIDIA H200, 151 GB"))
    for again in (lambda: shards.do(quick, job, Shard(2, 2), lambda event: None), lambda: do(quick, job)):
        with pytest.raises(
            ConfigError, match=f"was computed on NVIDIA H200, 151 GB, and this process computes on {ours[:6]}"
        ):
            again()


@pytest.mark.slow
def test_shards_are_numbered_from_one_and_only_of_jobs_that_have_them(quick, capsys):
    for wrong in ("0/2", "3/2", "1", "a/b", "1/0"):
        with pytest.raises(SystemExit):
            main(["attribute", quick.id, "--targets", "test:3", "--shard", wrong, "--outputs", str(quick.root)])
    assert "counted from 1" in capsys.readouterr().err
    assert main(["attribute", quick.id, "--targets", "test:99", "--shard", "1/2", "--outputs", str(quick.root)]) == 2
    with quick.lock(), pytest.raises(RunBusyError):
        shards.do(quick, Replay(("test:3",)), Shard(1, 2), lambda event: None)
    assert not part_files(quick)


@pytest.mark.slow
def test_shards_hold_a_run_together_and_nothing_else_changes_it(quick):
    with quick.lock().shared(), quick.lock().shared():
        with pytest.raises(RunBusyError):
            quick.lock().acquire()
        assert not quick.lock().is_held() and quick.status == "finished"
    os.close(quick.lock().acquire())


def test_all_who_ask_agree_on_what_the_first_wrote(tmp_path):
    plan = {"training": "t", "width": 4, "kind": "CPU"}
    agreed, start = [], threading.Barrier(8)

    def ask(width: int) -> None:
        start.wait()
        agreed.append(parts.agree(tmp_path / "plan.json", {**plan, "width": width})["width"])

    threads = [threading.Thread(target=ask, args=(width,)) for width in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(agreed) == 8 and len(set(agreed)) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


# -- what the pages show


@pytest.mark.slow
def test_live_shows_each_rank_and_what_others_wrote_is_text(quick):
    good = {"rank": 1, "host": "![x](http://evil.example/p.png)", "device": "H100", "phase": "replay", "step": 3}
    ranks = [{"rank": 0, "host": "here", "device": "H100", "phase": "replay", "step": 5, "steps": 10, "rss": 5e8}]
    ranks += [{**good, "steps": 10, "gpu": 2e9, "gpu_total": 8e10}]
    quick.events_log.append("started", job="replay")
    quick.events_log.append("ranks", ranks=ranks)
    for odd in ({**good, "steps": "many"}, {"host": "nobody"}, {**good, "rss": "much"}, "rank"):
        quick.events_log.append("ranks", ranks=[odd])
    now = progress.follow(progress.Progress(), quick.events()[0])
    assert now.ranks == ranks and now.damage
    app = show("pages/Live.py", run=quick.id)
    texts = [each.proto.text for each in app.get("progress") if "Rank" in each.proto.text]
    assert len(texts) == 2 and "step 5 of 10 · memory 500 MB" in texts[0]
    assert "GPU memory 2 GB of 80 GB" in texts[1] and "![x]" not in texts[1]


@pytest.mark.slow
def test_what_further_targets_take_is_said_before(quick):
    record = quick.manifest()
    assert record.timings["replay_targets"] == 2
    assert cost.replay_seconds(record, 100) == pytest.approx(50 * record.timings["replay_seconds"])
    older = dataclasses.replace(record, timings={"replay_seconds": 4.0}, targets_scored=2)
    assert cost.replay_seconds(older, 1000) == 2000 and cost.in_words(2000) == "33 min"
    assert cost.replay_seconds(dataclasses.replace(record, timings={}), 5) is None
