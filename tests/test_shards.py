"""Sets of targets in parts, and shards that know nothing of each other: bits, resumes, and what merging refuses."""

import threading

import numpy as np
import pytest

from engine.errors import CancelledError
from engine.jobs import parts
from engine.jobs.execute import execute
from engine.jobs.parts import Part, TargetSet
from engine.jobs.replay import Replay
from engine.runs import run as runs

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
    whole = TargetSet("training", "loss", TEN, 4)
    assert list(whole.passes) == [0, 1, 2] and list(whole.passes_of(Part(4, 10))) == [1, 2]
    assert whole.is_whole(Part(4, 10)) and not whole.is_whole(Part(2, 10)) and not whole.is_whole(Part(4, 9))


# -- one process


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(parts, "TARGETS_A_PART", 4)


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
    assert any(e.get("text") == "Targets 5 to 8 of 10 are scored." for e in run.events()[0])


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
    assert np.array_equal(run.scores().row(scored[TEN[9]]), run.scores().matrix(once)[9])

    phases = []
    name = do(run, None, on_event=lambda e: phases.append(e) if e["kind"] == "phase" else None).scores
    replayed = next(e for e in phases if e["phase"] == "replay")
    assert replayed["steps"] == run.manifest().steps  # of the last part alone
    assert np.array_equal(run.scores().matrix(name)[:8], run.scores().matrix(once)[::-1][:8])
    assert not list((run.path / "scores").glob("part-*")) and not list((run.path / "scores").glob("plan-*"))
