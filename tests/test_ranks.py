"""Ranks of the real torchrun, with gloo, on this machine: bits, deaths, stops, and the app's way to them."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.analysis import trust
from engine.jobs import queue
from engine.jobs.execute import execute
from engine.jobs.queue import JobQueue
from engine.jobs.ranks import introduction
from engine.jobs.replay import Replay
from engine.jobs.validation import Validate
from engine.runs import progress
from engine.runs import run as runs
from tools.hold import Hold

ROOT = Path(__file__).parents[1]
TEN = tuple(f"test:{i}" for i in range(10, 20))  # passes of 4, 4 and 2 on a CPU

pytestmark = pytest.mark.slow

outputs_of: dict = {}  # what each launcher and its ranks print, by process id


def do(run: runs.Run, job):
    with run.lock():
        return execute(run, job)


def torchrun(
    run: runs.Run,
    *words: str,
    launcher: tuple[str, ...] = ("--standalone", "--nproc-per-node=2"),
    program: tuple[str, ...] = ("-m", "engine"),
    outputs: Path | None = None,
) -> subprocess.Popen:
    """`torchrun --nproc-per-node=2 -m engine WORDS…`, where the word RUN is the run's id."""
    file = tempfile.TemporaryFile("w+")  # a pipe that nobody reads would make them wait
    words = tuple(run.id if word == "RUN" else word for word in words)
    call = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            *launcher,
            *program,
            *words,
            "--outputs",
            str(outputs or run.root),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=file,
        stderr=subprocess.STDOUT,
    )
    outputs_of[call.pid] = file
    return call


def ended(call: subprocess.Popen) -> tuple[int, str]:
    """Its exit code and what it printed."""
    code, file = call.wait(300), outputs_of[call.pid]
    file.seek(0)
    return code, file.read()


def test_two_ranks_have_the_bits_of_one_process(quick):
    """Scores, retrainings and what is said of them; and the run looks as one process leaves it."""
    one = do(quick, Replay(TEN)).scores
    code, output = ended(torchrun(quick, "attribute", "RUN", "--targets", "test:10-19"))
    assert code == 0, output
    two = quick.scores().sidecars()[-1]["name"]
    matrix = quick.scores().matrix
    assert two != one and np.abs(matrix(one)).max() > 0 and np.array_equal(matrix(two), matrix(one))
    sidecars = {s["name"]: s["targets"] for s in quick.scores().sidecars()}
    assert sidecars[one] == sidecars[two]
    ranks = [event["ranks"] for event in quick.events()[0] if event["kind"] == "ranks"]
    assert ranks and {rank["rank"] for rank in ranks[-1]} == {0, 1}
    assert any("2 ranks on" in event.get("text", "") for event in quick.events()[0])

    do(quick, Validate(5))
    reports = {r["name"]: r["targets"] for r in trust.reports(quick.manifest())}
    for path in (quick.path / "validation" / "retrained").iterdir():
        path.unlink()
    code, output = ended(torchrun(quick, "validate", "RUN", "--subsets", "5"))
    assert code == 0, output
    assert {r["name"]: r["targets"] for r in trust.reports(quick.manifest())} == reports
    assert not list(quick.path.glob(".ranks")) and not list((quick.path / "scores").glob("p*-*"))
    assert quick.status == "finished" and not quick.lock().is_held()


# -- deaths and stops


def held_ranks(run: runs.Run, hold: Hold, call, since: int = 0) -> dict[int, int]:
    """The ranks' process ids, once each has done some steps of the phase and waits there; of ranks that are told of
    after the run's first `since` events."""
    while call.poll() is None:
        told = [event["ranks"] for event in run.events()[0][since:] if event["kind"] == "ranks"]
        if told and all(r.get("phase") == hold.phase and r["step"] >= hold.step for r in told[-1]):
            return {rank["rank"]: rank["pid"] for rank in told[-1]}
        time.sleep(0.05)
    raise AssertionError(f"ended before: {run.manifest().error}")


@pytest.fixture
def half_way(quick, tmp_path):
    """Two ranks, each in the middle of its part; and what one process makes of the same targets."""
    one = do(quick, Replay(TEN)).scores
    whole = np.array(quick.scores().matrix(one))
    hold = Hold("replay", 5, tmp_path / "gate")
    call = torchrun(
        quick, "attribute", "RUN", "--targets", ",".join(TEN), program=("-m", "tools.hold", *hold.words[2:], "engine")
    )
    try:
        yield quick, call, held_ranks(quick, hold, call), whole
    finally:
        call.kill()
        call.wait()


def resumed(run: runs.Run, whole: np.ndarray, ranks: bool) -> None:
    """What was begun is gone on with, not begun again, and has the bits of one process."""
    if ranks:
        code, output = ended(torchrun(run, "resume", "RUN"))
        assert code == 0, output
    else:
        do(run, None)
    notes = [event["text"] for event in run.events()[0] if event["kind"] == "note"]
    assert any("Resumes the replay after" in text for text in notes)
    assert np.array_equal(run.scores().matrix(run.scores().names()[-1]), whole)
    assert run.status == "finished" and not run.manifest().resumable
    assert not list((run.path / "trajectory").glob("resume-*"))


@pytest.mark.parametrize("dead", [1, 0])
def test_a_killed_rank_fails_the_run_with_its_number_and_host_and_a_resume_goes_on(half_way, dead):
    run, call, pids, whole = half_way
    os.kill(pids[dead], signal.SIGKILL)
    code, output = ended(call)
    assert code != 0
    error = run.manifest().error
    host = os.uname().nodename
    assert error is not None and f"Rank {dead} on {host} died" in error.what and "resume" in error.remedy
    assert run.events()[0][-1]["kind"] == "failed" and run.manifest().resumable
    assert not run.lock().is_held() and not any(alive(pid) for pid in pids.values())
    resumed(run, whole, ranks=bool(dead))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_sigterm_to_torchrun_leaves_the_run_interrupted_and_a_resume_goes_on(half_way):
    run, call, pids, whole = half_way
    call.send_signal(signal.SIGTERM)
    ended(call)
    assert run.manifest().error is None and run.events()[0][-1]["kind"] not in ("failed", "cancelled")
    assert run.manifest().resumable and not any(alive(pid) for pid in pids.values())
    resumed(run, whole, ranks=False)


def test_torchrun_that_is_killed_leaves_no_rank_behind(half_way):
    """Ranks have sessions of their own: nobody tells them, they look."""
    run, call, pids, _ = half_way
    call.kill()
    call.wait()
    while any(alive(pid) for pid in pids.values()):
        time.sleep(0.05)
    assert run.manifest().resumable and run.manifest().error is None and not run.lock().is_held()


def test_ctrl_c_cancels_and_a_second_one_leaves_the_run_so_that_a_resume_goes_on(half_way):
    """The second ends torchrun at once, while it waits for its ranks; they end by themselves."""
    run, call, pids, whole = half_way
    call.send_signal(signal.SIGINT)
    while call.poll() is None and run.events()[0][-1]["kind"] != "cancelled":
        time.sleep(0.05)
    call.send_signal(signal.SIGINT)
    code, output = ended(call)
    assert code in (1, -signal.SIGINT), output
    assert run.manifest().error.kind == "cancelled" and run.events()[0][-1]["kind"] == "cancelled"
    while any(alive(pid) for pid in pids.values()):
        time.sleep(0.05)
    assert run.manifest().resumable and not run.lock().is_held()
    resumed(run, whole, ranks=False)


def test_a_rank_that_fails_is_named_with_its_reason(quick):
    code, output = ended(
        torchrun(quick, "attribute", "RUN", "--targets", "test:10-19", program=("-m", "tests.failing_rank"))
    )
    assert code != 0
    error = quick.manifest().error
    assert error is not None and f"Rank 1 on {os.uname().nodename} failed: MemoryError: no more of it" in error.what
    assert "no more of it" in (quick.path / "log.txt").read_text()


def test_a_rank_without_a_compiler_is_named(quick):
    compiled = quick.manifest().config.replace(compile="on")
    run = runs.Run.create(quick.root, compiled)
    code, output = ended(torchrun(run, "resume", "RUN", program=("-m", "tests.rank_without_compiler")))
    assert code != 0 and f"Rank 1 on {os.uname().nodename} has no compiler, and Rank 0 on" in output
    assert "compile=off" in output and not run.manifest().trained


def test_what_a_rank_says_of_itself_tells_processors_of_one_name_by_their_instructions(quick, monkeypatch):
    ours = introduction(quick)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "MMX")
    theirs = introduction(quick)
    assert ours["device"] != theirs["device"] and "MMX" in theirs["device"]
    assert ours["versions"] == theirs["versions"]


# -- several hosts


def hosts(
    run: runs.Run, *words: str, outputs: tuple[Path | None, Path | None] = (None, None)
) -> list[subprocess.Popen]:
    """Two launchers with one rank each, as on two hosts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    each = ("--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}")
    return [torchrun(run, *words, launcher=(*each, f"--node-rank={i}"), outputs=outputs[i]) for i in range(2)]


def test_two_launchers_as_on_two_hosts_have_the_bits_of_one_process(quick):
    one = do(quick, Replay(TEN)).scores
    calls = hosts(quick, "attribute", "RUN", "--targets", "test:10-19")
    assert [ended(call)[0] for call in calls] == [0, 0]
    two = quick.scores().names()[-1]
    assert two != one and np.array_equal(quick.scores().matrix(two), quick.scores().matrix(one))


def test_a_host_that_does_not_share_the_folder_of_runs_is_named(quick, tmp_path):
    (tmp_path / "other").mkdir()
    calls = hosts(quick, "attribute", "RUN", "--targets", "test:10-19", outputs=(None, tmp_path / "other"))
    outputs = [ended(call) for call in calls]
    assert all(code != 0 for code, _ in outputs)
    assert f"Rank 1 on {os.uname().nodename} cannot take part" in outputs[0][1] and "share" in outputs[0][1]
    assert quick.status == "finished" and not quick.manifest().resumable


# -- a run of its own


@pytest.mark.parametrize("mode", ["memory", "recompute"])
def test_a_new_run_by_two_ranks_has_the_bits_of_one_process(quick, mode):
    """Its training is not shared out; in memory mode each rank trains for itself, and goes through the same states."""
    settings = quick.manifest().config.replace(replay_mode=mode, targets=TEN[:6])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = runs.Run.create(quick.root, settings, "one")
        do(one, None)
    finally:
        torch.set_num_threads(threads)
    two = runs.Run.create(quick.root, settings, "two")
    code, output = ended(torchrun(two, "resume", "RUN"))
    assert code == 0, output
    matrices = [run.scores().matrix("loss-000") for run in (one, two)]
    assert matrices[0].shape[0] == 6 and np.array_equal(*matrices)
    digests = "model/digests.json"  # of the states that both went through
    assert one.manifest().files[digests] == two.manifest().files[digests]


def test_other_commands_are_refused_under_torchrun(quick):
    code, output = ended(torchrun(quick, "smoothness", "RUN"))
    assert code != 0 and "«smoothness» is not shared out among ranks" in output


# -- from the app's queue


@pytest.fixture
def two_ranks(quick, monkeypatch) -> JobQueue:
    """The queue that the pages submit to, with two ranks on this machine's CPU."""
    monkeypatch.setenv("REPLAY_RANKS", "2")
    return JobQueue(quick.root)


def settled(jobs: JobQueue) -> None:
    for held in queue._worker.held(jobs.root):
        assert held.released.wait(300)


@pytest.fixture
def held_in_app(quick, two_ranks, tmp_path, monkeypatch):
    """A replay of the app in the middle of both ranks' parts."""
    (tmp_path / "site").mkdir()
    gate = tmp_path / "gate"
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import os\nfrom pathlib import Path\n"
        "if 'RANK' in os.environ:\n    from tools.hold import Hold, install\n"
        f"    install(Hold('replay', 5, Path({str(gate)!r})))\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{ROOT}")
    return quick, two_ranks, Hold("replay", 5, gate)


class Working:
    """In the place of a launcher: is anybody at work?"""

    def __init__(self, jobs: JobQueue):
        self.jobs = jobs

    def poll(self) -> int | None:
        return None if self.jobs.active() else 0


def test_ranks_of_the_app_are_cancelled_and_stopped_and_a_resume_has_the_bits_of_one_process(held_in_app):
    """By the server's end, too; and the run looks as ever."""
    run, jobs, hold = held_in_app
    one = do(run, Replay(TEN)).scores

    def left_to_be_resumed(pids: dict[int, int]) -> None:
        assert not any(alive(pid) for pid in pids.values()) and not run.lock().is_held()
        assert run.manifest().resumable

    jobs.submit(run.id, Replay(TEN))
    pids = held_ranks(run, hold, Working(jobs))
    assert jobs.cancel(run.id)
    settled(jobs)
    assert run.manifest().error.kind == "cancelled"
    left_to_be_resumed(pids)

    before = len(run.events()[0])
    jobs.resume(run.id)
    pids = held_ranks(run, hold, Working(jobs), since=before)
    jobs.stop()
    assert run.manifest().error is None
    left_to_be_resumed(pids)

    hold.open()
    jobs.resume(run.id)
    settled(jobs)
    assert run.manifest().error is None, (run.path / "log.txt").read_text()
    assert any("Resumes the replay after" in event.get("text", "") for event in run.events()[0])
    two = run.scores().names()[-1]
    assert two != one and np.array_equal(run.scores().matrix(two), run.scores().matrix(one))
    events = run.events()[0]
    told = [event["ranks"] for event in events if event["kind"] == "ranks"][-1]
    assert [(rank["rank"], rank["host"]) for rank in told] == [(0, os.uname().nodename), (1, os.uname().nodename)]
    now = progress.follow(progress.Progress(), events)
    assert now.phase == "done" and not now.ranks and run.status == "finished"
    assert not run.lock().is_held() and not run.manifest().resumable


def test_a_server_that_is_killed_takes_its_ranks_along(held_in_app):
    run, jobs, hold = held_in_app
    code = (
        "import sys, time; from pathlib import Path; from engine.jobs.queue import JobQueue; "
        "from engine.jobs.replay import Replay; jobs = JobQueue(Path(sys.argv[1])); "
        f"jobs.submit(sys.argv[2], Replay({TEN!r}))\nwhile jobs.active(): time.sleep(0.1)"
    )
    server = subprocess.Popen([sys.executable, "-c", code, str(run.root), run.id], cwd=ROOT)
    pids = held_ranks(run, hold, server)
    server.kill()
    server.wait()
    while any(alive(pid) for pid in pids.values()) or run.lock().is_held():
        time.sleep(0.05)
    assert run.manifest().resumable and run.manifest().error is None


def test_a_wrong_number_of_ranks_is_said(quick, two_ranks, monkeypatch):
    monkeypatch.setenv("REPLAY_RANKS", "many")
    two_ranks.submit(quick.id, Replay(TEN))
    settled(two_ranks)
    assert "REPLAY_RANKS=many is no number of GPUs" in quick.manifest().error.what
