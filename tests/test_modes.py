"""Replay modes: the same scores bit for bit, whatever is kept, recomputed, deleted or damaged."""

import hashlib
import os
import shutil
import threading

import numpy as np
import pytest
import safetensors
import torch

import engine.core.training
from engine import device, space
from engine.core.optim.sgd import sgd
from engine.core.state import State
from engine.errors import CancelledError, ConfigError, IntegrityError, StorageError
from engine.trajectory import state_files
from engine.trajectory.digests import Digests
from engine.trajectory.segments import segment_length
from engine.trajectory.stores import DiskStore, MemoryStore
from engine.trajectory.writer import Writer
from tests.helpers import RECIPE, images, net

STEPS = 9
SGD = sgd(RECIPE, torch.ones(3))


def trained(**kwargs):
    inputs, labels = images()
    return engine.train(net().float(), inputs.float(), labels, RECIPE, device="cpu", check=False, **kwargs)


def scores(of) -> np.ndarray:
    inputs, labels = images()
    return engine.attribute(of, inputs[:3].float(), labels[:3])


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    found = scores(trained())
    assert np.abs(found).min(0).max() > 0
    return found


@pytest.fixture
def steps_run(monkeypatch) -> list[int]:
    """Every step that is run forward again, in order."""
    seen, advance = [], engine.core.training.advance

    def told(model, stream, state, start, stop, *rest, **kwargs):
        seen.extend(range(start, stop))
        return advance(model, stream, state, start, stop, *rest, **kwargs)

    monkeypatch.setattr("engine.core.training.advance", told)
    return seen


# -- the same scores


@pytest.mark.slow
@pytest.mark.parametrize("segment", range(1, STEPS + 2))
@pytest.mark.parametrize("on_disk", [True, False])
def test_recompute_equals_memory_bitwise_and_runs_the_steps_again(segment, on_disk, expected, steps_run, tmp_path):
    of = trained(replay_mode="recompute", segment=segment, trajectory_folder=tmp_path if on_disk else None)
    assert steps_run == list(range(STEPS))
    if on_disk:
        kept = range(0, STEPS, min(segment, STEPS))
        assert sorted(p.name for p in tmp_path.iterdir()) == [f"full-{t:07d}.safetensors" for t in kept]
    steps_run.clear()
    assert np.array_equal(scores(of), expected)
    # From the last segment to the first, each forwards, each step once.
    length = min(segment, STEPS)
    order = [t for start in reversed(range(0, STEPS, length)) for t in range(start, min(start + length, STEPS))]
    assert steps_run == order and of.trajectory.rebuilt == STEPS


def test_disk_equals_memory_bitwise_and_runs_nothing_again(expected, steps_run, tmp_path):
    of = trained(trajectory_folder=tmp_path)
    steps_run.clear()
    assert np.array_equal(scores(of), expected) and np.array_equal(scores(of), expected)
    assert steps_run == [] and len(list(tmp_path.iterdir())) == STEPS


def test_segment_lengths_are_what_the_square_root_and_the_space_say():
    assert [segment_length(T, 10) for T in (1, 2, 4, 5, 144, 145, 5000)] == [1, 2, 2, 3, 12, 13, 71]
    assert [segment_length(144, 10, space=s) for s in (10, 20, 60, 119, 120, 10_000)] == [144, 72, 24, 14, 12, 12]
    assert [segment_length(9, 10, segment=s) for s in (1, 4, 100)] == [1, 4, 9]
    with pytest.raises(ConfigError, match="Not one checkpoint of 10 bytes fits into 9 bytes"):
        segment_length(144, 10, space=9)


@pytest.mark.parametrize(
    "given", [dict(replay_mode="disk"), dict(replay_mode="cloud"), dict(replay_mode="memory", trajectory_folder="x")]
)
def test_a_mode_that_does_not_go_with_its_folder_is_named(given):
    with pytest.raises(ConfigError, match="eplay mode"):
        trained(**given)


# -- what is missing or damaged is made again, and said


def contents(folder) -> dict[str, str]:
    """Of each file the checksum in its header, which the reader has verified."""
    found = {}
    for path in folder.iterdir():
        state_files.read_state(path, {}, "")
        with safetensors.safe_open(path, "pt") as file:
            found[path.name] = file.metadata()["sha256"]
    return found


def flip(path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at % len(content)] ^= 4
    path.write_bytes(content)


HARMS = {
    "missing": lambda f: f[1].unlink(),
    "cut": lambda f: f[1].write_bytes(f[1].read_bytes()[:-7]),
    "emptied": lambda f: f[1].write_bytes(b""),
    "a bit of its values": lambda f: flip(f[1], -5),
    "a bit of its header": lambda f: flip(f[1], 30),
    "swapped": lambda f: f[1].write_bytes(f[2].read_bytes()),
    "all deleted": lambda f: [p.unlink() for p in f],
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["disk", "recompute"])
@pytest.mark.parametrize("harm", HARMS)
def test_what_is_damaged_is_rebuilt_bitwise_and_said(mode, harm, expected, steps_run, tmp_path):
    of = trained(replay_mode=mode, trajectory_folder=tmp_path, segment=3)
    before = contents(tmp_path)
    HARMS[harm](sorted(tmp_path.iterdir()))
    said = []
    of.trajectory.notify = said.append
    steps_run.clear()
    assert np.array_equal(scores(of), expected)
    assert steps_run and said and (harm == "all deleted" or "0000001" in said[0] or "0000003" in said[0])
    assert contents(tmp_path) == before


@pytest.mark.parametrize("mode", ["disk", "recompute"])
def test_a_deleted_trajectory_is_rebuilt_by_one_call(mode, tmp_path, steps_run):
    of = trained(replay_mode=mode, trajectory_folder=tmp_path, segment=4)
    before = contents(tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    steps_run.clear()
    of.trajectory.rebuild()
    assert contents(tmp_path) == before and steps_run == list(range(STEPS))
    steps_run.clear()
    of.trajectory.rebuild()
    assert steps_run == []


@pytest.mark.parametrize("mode", ["memory", "disk", "recompute"])
def test_rebuilt_states_that_differ_are_an_error_each_time_and_are_not_kept(mode, tmp_path):
    of = trained(replay_mode=mode, trajectory_folder=None if mode == "memory" else tmp_path, segment=3)
    if mode == "memory":
        of.trajectory.store.close()
    for path in tmp_path.iterdir():
        path.unlink()
    right = of.trajectory.initial
    of.trajectory.initial = right._replace(theta=right.theta * (1 + 1e-7))  # one rounding away
    for act in (scores, scores, lambda of: of.trajectory.rebuild()):
        with pytest.raises(IntegrityError, match="is not the one that training went through") as error:
            act(of)
        assert "other software, hardware or thread counts" in error.value.remedy
    assert not list(tmp_path.iterdir())
    # Differences that begin after a digest: what it confirmed is kept, what comes after it is not.
    of.trajectory.initial, forward = right, of.trajectory.forward

    def astray(state, start, stop, put):
        def put_other(t, state):
            put(t, state if t < 5 else state._replace(theta=state.theta * (1 + 1e-7)))

        return forward(state, start, stop, put_other)

    of.trajectory.forward = astray
    for act in (scores, scores, lambda of: of.trajectory.rebuild()):
        with pytest.raises(IntegrityError, match="before step 6"):
            act(of)
    of.trajectory.store.flush()
    kept = {"memory": [], "disk": [f"step-{t:07d}.safetensors" for t in range(4)]}
    kept["recompute"] = [f"full-{t:07d}.safetensors" for t in (0, 3)]
    assert sorted(p.name for p in tmp_path.iterdir()) == kept[mode]


def test_a_segment_whose_end_differs_is_not_replayed_from_either(tmp_path):
    """Its states were in memory before the digest at its end was looked at."""
    of = trained(replay_mode="recompute", trajectory_folder=tmp_path, segment=3)
    forward = of.trajectory.forward

    def astray(*args):
        state = forward(*args)
        return state._replace(theta=state.theta * (1 + 1e-7))

    of.trajectory.forward = astray
    for _ in range(2):
        with pytest.raises(IntegrityError, match="before step 9"):
            of.trajectory.get(8)


def test_a_state_that_was_read_ahead_is_read_again_once_it_is_replaced(tmp_path):
    store = DiskStore(tmp_path, "a", torch.device("cpu"), Writer(), SGD)
    state = State(torch.ones(3), (torch.ones(3),), torch.ones(1))
    for t in (0, 1):
        store.put(t, state)
    store.flush()
    store.get(1)  # and ahead of time, 0
    store.put(0, state._replace(theta=torch.zeros(3)))
    store.flush()
    assert torch.equal(store.get(0).theta, torch.zeros(3))
    store.close()


@pytest.mark.parametrize("harm", ["value", "name", "shape"])
def test_a_digest_covers_values_names_and_shapes(harm):
    state = State(torch.ones(3), (torch.ones(3),), torch.ones(1))
    other = {
        "value": state._replace(theta=torch.tensor([1, 1, 1 + 2**-23])),
        "name": State(state.theta, (state.buffers,), state.opt[0]),
        "shape": state._replace(theta=torch.ones(3, 1)),
    }[harm]
    assert state_files.digest_of(state_files.named(state, SGD)) != state_files.digest_of(state_files.named(other, SGD))


def test_a_trajectory_of_another_training_is_refused(tmp_path):
    state, cpu, writer = State(torch.ones(3), (torch.ones(3),), torch.ones(1)), torch.device("cpu"), Writer()
    mine = DiskStore(tmp_path, "a", cpu, writer, SGD)
    mine.put(0, state)
    mine.flush()
    assert torch.equal(mine.get(0).theta, state.theta) and mine.get(0).opt[0].numel() == 0
    with pytest.raises(IntegrityError, match="another training"):
        DiskStore(tmp_path, "b", cpu, writer, SGD).get(0)


def test_states_that_were_computed_on_something_else_are_refused(tmp_path):
    """The last bits of two thread counts differ, and a header names them; files from before it did are read."""
    state, cpu, writer = State(torch.ones(3), (torch.ones(3),), torch.ones(1)), torch.device("cpu"), Writer()
    one, two = (
        DiskStore(tmp_path, "a", cpu, writer, SGD, computed_on=device.computed_on(cpu, threads)) for threads in (1, 2)
    )
    one.put(0, state)
    one.flush()
    assert torch.equal(one.get(0).theta, state.theta)
    with pytest.raises(IntegrityError, match="another device: cpu, 1 threads instead of cpu, 2 threads"):
        two.get(0)
    older = DiskStore(tmp_path, "a", cpu, writer, SGD)
    older.put(1, state)
    older.flush()
    assert torch.equal(two.get(1).theta, state.theta) and torch.equal(older.get(0).theta, state.theta)


@pytest.fixture
def reads(monkeypatch) -> list[int]:
    """The step of every state's file that is read."""
    steps, read = [], state_files.read_with_header

    def counted(path, header, *rest):
        steps.append(int(header["step"]))
        return read(path, header, *rest)

    monkeypatch.setattr(state_files, "read_with_header", counted)
    return steps


@pytest.mark.parametrize("mode, count", [("disk", STEPS), ("recompute", 3)])
@pytest.mark.parametrize("harm", ["none", "missing", "a bit of its values"])
def test_a_checkup_reads_every_state_once(mode, count, harm, tmp_path, reads):
    of = trained(replay_mode=mode, trajectory_folder=tmp_path, segment=3)
    if harm != "none":
        HARMS[harm](sorted(tmp_path.iterdir()))
    reads.clear()
    of.trajectory.rebuild()
    of.trajectory.close()  # and with it what is read ahead
    one_more = harm != "none" and mode == "recompute"  # the checkpoint that training goes on from
    assert len(reads) == count + one_more and len(set(reads)) == count


def test_a_lost_folder_is_made_again_and_its_states_with_it(tmp_path, expected):
    folder = tmp_path / "trajectory"
    folder.mkdir()
    of = trained(trajectory_folder=folder)
    before = contents(folder)
    shutil.rmtree(folder)
    assert np.array_equal(scores(of), expected) and contents(folder) == before


def test_a_linked_folder_is_refused_and_what_it_leads_to_is_left_alone(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    of, other = trained(trajectory_folder=tmp_path / "a"), trained(trajectory_folder=tmp_path / "b")
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "b").iterdir()}
    shutil.rmtree(tmp_path / "a")
    (tmp_path / "a").symlink_to("b")
    sorted((tmp_path / "b").iterdir())[0].unlink()
    with pytest.raises(StorageError, match="link"):
        of.trajectory.rebuild()
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "b").iterdir()} == dict(sorted(before.items())[1:])
    assert other.trajectory.rebuilt == 0


STATE_FILE_HARMS = {
    "a pipe": lambda p: (p.unlink(), os.mkfifo(p)),
    "a folder": lambda p: (p.unlink(), p.mkdir()),
    "a link": lambda p: (p.unlink(), p.symlink_to("/dev/zero")),
    "header is cut or too long": lambda p: p.write_bytes(b"\xff" * 100),
    "its header is cut": lambda p: p.write_bytes((200).to_bytes(8, "little") + b"{}"),
    "no safetensors header": lambda p: p.write_bytes((2).to_bytes(8, "little") + b"[]"),
    "nested too deeply": lambda p: p.write_bytes((4000).to_bytes(8, "little") + b"[" * 4000),
    "of another step: None": lambda p: p.write_bytes((2).to_bytes(8, "little") + b"{}"),
    "utf-8": lambda p: p.write_bytes((2).to_bytes(8, "little") + b"\xff\xff"),
}


@pytest.mark.parametrize("said", STATE_FILE_HARMS)
def test_a_file_of_a_state_that_is_none_is_named(said, tmp_path):
    path = tmp_path / "step-0000000.safetensors"
    state_files.write_state(path, {"theta": torch.ones(3)}, {"step": "0"})
    STATE_FILE_HARMS[said](path)
    with pytest.raises(IntegrityError, match=said) as error:
        state_files.read_state(path, {"step": "0"}, "Do this.")
    assert str(path) in error.value.what and error.value.remedy == "Do this."


def test_the_file_of_a_state_is_hashed_once(tmp_path, monkeypatch):
    """By its own checksum: another of the whole file is made only where a manifest records it."""
    hashed, sha256 = [], hashlib.sha256

    class Counting:
        def __init__(self, content=b""):
            self._hash = sha256()
            self.update(content)

        def update(self, content):
            hashed.append(len(content))
            self._hash.update(content)

        def hexdigest(self):
            return self._hash.hexdigest()

    monkeypatch.setattr(hashlib, "sha256", Counting)
    theta = torch.ones(10_000)
    state_files.save_state(tmp_path / "x", {"theta": theta}, {})
    assert 40_000 <= sum(hashed) < 41_000
    hashed.clear()
    state_files.write_state(tmp_path / "y", {"theta": theta}, {})
    assert 80_000 <= sum(hashed) < 82_000
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


# -- bounded, in order, and patient


def test_memory_store_gives_back_what_was_put():
    kept = MemoryStore(SGD, full=True)
    states = [State(torch.randn(3), (torch.randn(3),), torch.randn(2)) for _ in range(5)]
    for t, state in enumerate(states):
        kept.put(t, state)
    assert all(
        torch.equal(a, b) for t, state in enumerate(states) for a, b in zip(kept.get(t).parts, state.parts, strict=True)
    )


def test_the_writer_writes_in_order_holds_little_and_passes_errors_on(monkeypatch):
    monkeypatch.setattr("engine.trajectory.writer.WAITING", 30)
    writer, done, handed, third, ahead = Writer(), [], [], threading.Event(), []

    def act(i):
        third.wait()
        ahead.append(len(handed) - i)
        done.append(i)

    def feed(i):
        writer.write(10, lambda: act(i))
        handed.append(i)
        if i == 2:
            third.set()  # three are handed over while none is done; the fourth waits for the first

    for i in range(12):
        feed(i)
    writer.flush()
    assert done == list(range(12)) and max(ahead) <= 3

    def fail():
        raise StorageError("No space left to write x.")

    writer.write(10, fail)
    with pytest.raises(StorageError, match="No space left"):
        for i in range(20, 30):
            writer.write(10, lambda i=i: act(i))
        writer.flush()
    assert not any(i >= 20 for i in done), "nothing is written after a failure"
    writer.close()


def test_a_full_disk_is_waited_for_until_there_is_space_or_the_run_is_cancelled(tmp_path, monkeypatch):
    monkeypatch.setattr(space, "LOOK_AGAIN", 0.01)
    free, told, stop = [0, 0, space.RESERVE + 9, space.RESERVE + 10], [], threading.Event()
    monkeypatch.setattr(space, "disk_free", lambda folder: free.pop(0) if free else space.RESERVE + 10)
    room = space.DiskSpace(tmp_path, stop, lambda kind, **fields: told.append((kind, fields)))
    assert room.write(10, lambda: "written") == "written"
    assert [kind for kind, _ in told] == ["paused", "continued"] and told[0][1]["needed"] == space.RESERVE + 10
    refusals = [StorageError("full", passing=True), StorageError("full", passing=True)]

    def refused_twice():
        if refusals:
            raise refusals.pop()
        return "written"

    assert room.write(10, refused_twice) == "written" and len(told) == 4
    with pytest.raises(StorageError, match="for good"):
        room.write(10, lambda: (_ for _ in ()).throw(StorageError("for good")))
    monkeypatch.setattr(space, "disk_free", lambda folder: 0)
    stop.set()
    with pytest.raises(CancelledError, match="waiting for space"):
        room.write(10, lambda: None)


def test_checkpoints_know_where_a_digest_stands():
    digests = Digests(SGD, 4, 10)
    assert [digests.after(t) for t in range(10)] == [4, 4, 4, 4, 8, 8, 8, 8, 10, 10]
    state = State(torch.ones(2), (torch.ones(2),), torch.ones(2))
    for t in range(11):
        digests.note(t, state)
    assert sorted(digests.known) == [0, 4, 8, 10]
    with pytest.raises(IntegrityError, match="before step 8"):
        digests.note(8, state._replace(buffers=torch.zeros(2)))
