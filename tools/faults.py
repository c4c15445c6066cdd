"""Kills, damage, odd files, links, full disks, refusing file systems and stopped servers: `make faults`. The scores
must not change.

A short form is part of the tests (`tests/test_faults.py`); this module does the harm.
"""

import functools
import itertools
import os
import random
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from unittest import mock

import numpy as np

from engine import config as configs
from engine import space
from engine.analysis import target_view
from engine.datasets import registry as dataset_registry
from engine.errors import ReplayError
from engine.jobs import execute as work
from engine.jobs.replay import Replay
from engine.jobs.resume import RESUME_REPLAY
from engine.runs import run as runs
from engine.targets import Target
from tools.hold import Hold, every_step_told

ROOT = Path(__file__).parents[1]
# Long enough to be killed in the middle: 96 steps of training, then as many of replay, in segments of 10.
KILLED = configs.preset("sample").replace(
    targets=("test:0",), width=0.125, **{"recipe.epochs": 2, "recipe.batch_size": 125}
)
SHORT = configs.preset("sample").replace(
    targets=("test:0",), width=0.125, **{"recipe.epochs": 1, "recipe.batch_size": 500}
)
SEGMENT = 10
PAGES = ("app.py", "pages/Live.py", "pages/Influence.py", "pages/Runs_and_storage.py")


def new_run(root: Path, config: configs.RunConfig) -> runs.Run:
    run = runs.Run.create(root, config)
    with run.lock():
        work.execute(run)
    return run


def finish(run: runs.Run) -> None:
    """Resumes a run that another process left, in this one."""
    with run.lock():
        work.execute(run)


@functools.cache
def whole(config: configs.RunConfig) -> np.ndarray:
    """The scores of a run of `config`, made once and without a fault."""
    with tempfile.TemporaryDirectory() as folder:
        return new_run(runs.outputs_root(Path(folder)), config).scores().matrix("loss-000").copy()


def settings(config: configs.RunConfig) -> list[str]:
    """The command line's words for a configuration made from the sample's."""
    recipe = config.recipe
    return [
        "--targets",
        ",".join(config.targets),
        "--mode",
        config.replay_mode,
        "--set",
        f"recipe.epochs={recipe.epochs}",
        "--set",
        f"recipe.batch_size={recipe.batch_size}",
        "--set",
        f"width={config.width}",
    ]


@contextmanager
def engine(root: Path, *words: str, limit: int | None = None, before: tuple[str, ...] = (), hold: Hold | None = None):
    """`python -m engine` as a process of its own, killed at the end where it still runs; `limit`
    is the largest file, in bytes, that it may write; `before` is a command that runs it; `hold` makes its job wait."""

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = subprocess.Popen(
        [*before, sys.executable, *(hold.words if hold else ["-m"]), "engine", *words, "--outputs", str(root)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=small_files if limit else None,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def the_run(root: Path, process: subprocess.Popen) -> runs.Run:
    """The run that `process` makes, once it is there."""
    while not (found := runs.list_runs(root)):
        assert process.poll() is None, f"no run began: {process.stdout.read()}"
        time.sleep(0.01)
    return found[0]


def steps_done(run: runs.Run) -> tuple[str, int]:
    """Phase and step of the last progress event."""
    told = [e for e in run.events()[0] if e["kind"] == "progress"]
    return (told[-1]["phase"], told[-1]["step"]) if told else ("prepare", 0)


def kills(count: int, seed: int, folder: Path, say=print) -> list[dict]:
    """SIGKILL at `count` random moments of training and replay, over all modes, each followed by a
    resume which may be killed again. Returns a row a kill; raises where a score differs."""
    dice, rows = random.Random(seed), []
    expected = whole(KILLED)
    for number in itertools.count():
        if len(rows) >= count:
            return rows
        mode = configs.REPLAY_MODES[number % 3]
        root = runs.outputs_root(folder / f"killed-{number}")
        words, left = ("run", *settings(KILLED.replace(replay_mode=mode))), min(5, count - len(rows))
        moments = sorted(dice.sample(range(1, 192), left))  # a step of the 96 + 96
        run = None
        for moment in moments:
            phase, step = ("train", moment) if moment <= 96 else ("replay", moment - 96)
            hold = Hold(phase, step, folder / f"gate-{number}-{moment}")
            with engine(root, *words, hold=hold) as process:
                run = run or the_run(root, process)
                if not _is_held(run, process, hold):
                    break  # it was past that step before
                hold.open()
                time.sleep(dice.random() * 0.1)  # anywhere between two steps, also while states are written
                process.send_signal(signal.SIGKILL)
                process.wait()
            phase, step = steps_done(run)
            if run.status == "finished":
                break  # before the signal came
            assert run.status == "interrupted", run.status
            rows.append({"mode": mode, "phase": phase, "step": step})
            say(f"kill {len(rows):3}: {mode:9} {phase:8} step {step}")
            words = ("resume", run.id)
        if run.status != "finished":
            finish(run)
        assert run.status == "finished" and np.array_equal(run.scores().matrix("loss-000"), expected), mode
        _check_lost(run, mode)


def _is_held(run: runs.Run, process: subprocess.Popen, hold: Hold) -> bool:
    """Waits until the process waits at its step; False where it ended without."""
    done: tuple[str, int] = ("", 0)
    before = run.events()[1]
    while not (done[0] == hold.phase and done[1] >= hold.step):
        if process.poll() is not None:
            return False
        time.sleep(0.005)
        events, before = run.events(before)
        for event in events:
            if event["kind"] == "progress":
                done = event["phase"], event["step"]
    return True


def _check_lost(run: runs.Run, mode: str) -> None:
    """Each resumed phase begins at most a segment before the last step that was told of."""
    done: dict[str, int] = {}
    for event in run.events()[0]:
        if event["kind"] == "progress":
            done[event["phase"]] = event["step"]
        if event["kind"] == "phase" and "done" in event and not (mode == "memory" and event["phase"] == "train"):
            lost = done.get(event["phase"], 0) - event["done"]
            assert lost <= SEGMENT, f"{lost} steps of {event['phase']} were lost in {mode} mode"


# -- damage


def _flip(path: Path, dice: random.Random) -> str:
    content = bytearray(path.read_bytes())
    if content:
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)
    return "flip"


def _cut(path: Path, dice: random.Random) -> str:
    os.truncate(path, dice.randrange(max(1, path.stat().st_size)))
    return "cut"


def _delete(path: Path, dice: random.Random) -> str:
    path.unlink()
    return "delete"


def _swap(path: Path, dice: random.Random) -> str:
    others = [p for p in path.parent.iterdir() if p != path and p.is_file()]
    if others:
        other = dice.choice(others)
        mine, its = path.read_bytes(), other.read_bytes()
        path.write_bytes(its)
        other.write_bytes(mine)
    return "swap"


def corruptions(count: int, seed: int, folder: Path, look, say=print) -> list[dict]:
    """`count` random flips, cuts, deletions and swaps, one at a time, on copies of three runs: kept
    by disk and by recompute mode, and interrupted in the replay. Each is detected or harmless: what is
    read is as it was or a `ReplayError`, and so are the scores of a replay. `look(root, run)` draws
    the pages. Returns a row a corruption; raises where a score differs or another error comes."""
    dice, rows = random.Random(seed), []
    whole = runs.outputs_root(folder / "whole")
    originals = [new_run(whole, SHORT.replace(replay_mode=mode)) for mode in ("disk", "recompute")]
    expected = originals[0].scores().matrix("loss-000").copy()
    originals.append(_interrupted(folder))
    for number in range(count):
        original = originals[number % 3]
        root = runs.outputs_root(folder / f"corrupted-{number}")
        shutil.copytree(original.path, root / original.id)
        run = runs.Run(root, original.id)
        victims = sorted(p for p in run.path.rglob("*") if p.is_file())
        # Every file has its turn: half of the harm goes to the few small ones.
        small = [p for p in victims if p.parent.name != "trajectory"]
        victim = dice.choice(small if dice.random() < 0.5 else victims)
        how = dice.choice([_flip, _flip, _cut, _delete, _swap])(victim, dice)
        found = _read_all(run, expected)
        look(root, run)
        found.append(_replay(run, expected, original.status == "interrupted"))
        outcome = "; ".join(dict.fromkeys(f for f in found if f)) or "harmless: all scores as before"
        rows.append({"how": how, "file": victim.relative_to(run.path).as_posix(), "outcome": outcome})
        say(f"{number + 1:4}: {how:6} {rows[-1]['file']:42} {outcome[:150]}")
        shutil.rmtree(root)
    return rows


def _interrupted(folder: Path) -> runs.Run:
    """A run as it stands after a kill in its replay."""

    class Killed(BaseException):
        pass

    def on_event(event):
        if event["kind"] == "progress" and event["phase"] == "replay" and event["step"] >= 6:
            raise Killed

    root = runs.outputs_root(folder / "interrupted")
    run = runs.Run.create(root, SHORT)
    silent = mock.patch.object(work, "record_failure", lambda *args: None)  # a killed process says nothing
    with suppress(Killed), silent, every_step_told(), run.lock():
        work.execute(run, on_event=on_event)
    assert run.status == "interrupted" and (run.path / "trajectory" / RESUME_REPLAY).exists()
    return run


def _read_all(run: runs.Run, expected: np.ndarray) -> list[str]:
    """What each reader says of the damage; anything but a `ReplayError` goes up."""
    dataset = dataset_registry.load(SHORT.dataset)
    said = []
    for read in (
        lambda: run.status,
        lambda: run.manifest().config,
        run.manifest,
        run.events,
        lambda: run.scores().targets(),
        lambda: run.manifest().modes(),
        lambda: run.storage().sizes(),
        lambda: run.manifest().resumable,
        lambda: target_view.view(run.manifest(), dataset, Target.parse("test:0")),
        lambda: _same(run, expected),
    ):
        try:
            read()
        except ReplayError as error:
            assert error.what and error.remedy, repr(error)
            said.append(f"{error.what} {error.remedy}")
    said += ["a line of the log cannot be read" for e in _events(run) if e["kind"] == "unreadable"]
    return said


def _same(run: runs.Run, expected: np.ndarray) -> None:
    for found in run.scores().sidecars():
        assert np.array_equal(run.scores().matrix(found["name"]), expected), "a changed score was read"


def _replay(run: runs.Run, expected: np.ndarray, interrupted: bool) -> str:
    notes = len(_notes(run))
    try:
        job = None if interrupted else Replay(SHORT.targets, "loss", run.manifest().mode_for(None))
        with run.lock():
            name = work.execute(run, job).scores
        assert np.array_equal(run.scores().matrix(name), expected), "a damaged run gave another score"
    except ReplayError as error:
        assert error.what and error.remedy, repr(error)
        return f"{error.what} {error.remedy}"
    return " ".join(
        t for t in _notes(run)[notes:] if "missing" in t or "damaged" in t or "changed" in t or "another" in t
    )


def draw_pages(root: Path, run: runs.Run) -> None:
    """Every page that shows runs, drawn without a browser: whatever is wrong is told as a message."""
    import streamlit as st
    from streamlit.testing.v1 import AppTest

    os.environ["REPLAY_OUTPUTS_DIR"] = str(root)
    st.cache_resource.clear()  # the app remembers its folder
    st.cache_data.clear()
    for page in PAGES:
        app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
        if page != "app.py":
            app.switch_page(page)
        app.query_params["run"] = run.id
        app.run()
        said = " ".join(e.value for e in app.error)
        assert not app.exception and "This page stopped" not in said, (page, said, app.exception)


def _notes(run: runs.Run) -> list[str]:
    return [e["text"] for e in _events(run) if e["kind"] == "note"]


def _events(run: runs.Run) -> list[dict]:
    """None where the log is no file: `_read_all` has said so."""
    try:
        return run.events()[0]
    except ReplayError:
        return []


# -- files of other kinds, links


@contextmanager
def no_hang(seconds: int = 900):
    """Whoever opens a pipe or reads a device without an end is found out, not waited for; far longer than any work that
    ends, also on a machine that does much else."""

    def hangs(*_):
        raise AssertionError(f"nothing came back for {seconds} s")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(path.parent)  # the name of a socket has a hundred characters at most
        server.bind(path.name)
        os.chdir(here)


def _holes(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 42)


# What may stand in the place of a run's file. None of them may hang, end raw, or change a score.
KINDS = {
    "folder": lambda p: p.mkdir(),
    "pipe": os.mkfifo,
    "socket": _socket,
    "device": lambda p: os.mknod(p, 0o666 | stat.S_IFCHR, os.makedev(1, 5)),  # /dev/zero
    "endless link": lambda p: p.symlink_to("/dev/zero"),
    "link to itself": lambda p: p.symlink_to(p.name),
    "holes": _holes,
    "deep": lambda p: p.write_bytes(b"[" * 200_000),
    "not UTF-8": lambda p: p.write_bytes(b'{"a": "\xff\xfe"}'),
    "not finite": lambda p: p.write_bytes(b'{"schema": 2, "status": NaN, "checksum": 1e999}'),
    "half a character": lambda p: p.write_bytes(b'{"ticked": [], "notes": {"run": "\\ud800"}}'),
}
NAMES = (
    "manifest.json",
    "config.json",
    "events.jsonl",
    "notes.json",
    "log.txt",
    ".lock",
    "scores/loss-000.json",
    "scores/loss-000.npy",
    "model/state.safetensors",
    "model/digests.json",
    "model/test_logits.npy",
    "trajectory/step-0000005.safetensors",
)


def odd_files(cases: list[tuple[str, str]], folder: Path, look, say=print) -> list[dict]:
    """For each (kind, name): a file of another kind in place of a run's own, read by all readers, drawn by
    `look(root, run)`, replayed and deleted. Returns a row a case; raises for a hang, another score, another error
    than a `ReplayError`."""
    original = new_run(runs.outputs_root(folder / "whole-odd"), SHORT)
    expected, rows = original.scores().matrix("loss-000").copy(), []
    for number, (kind, name) in enumerate(cases):
        if kind == "device" and os.geteuid() != 0:
            continue
        root = runs.outputs_root(folder / f"odd-{number}")
        shutil.copytree(original.path, root / original.id)
        run = runs.Run(root, original.id)
        victim = run.path / name
        victim.unlink(missing_ok=True)
        KINDS[kind](victim)
        with no_hang():
            said = _read_all(run, expected)
            look(root, run)
            said.append(_replay(run, expected, False))
            try:
                run.storage().delete()
            except ReplayError as error:
                said.append(f"not deleted: {error}")
        outcome = "; ".join(dict.fromkeys(filter(None, said))) or "harmless: all scores as before"
        rows.append({"kind": kind, "file": name, "outcome": outcome, "deleted": not run.path.exists()})
        say(f"{kind:16} {name:36} {outcome[:150]}")
        shutil.rmtree(root)
    return rows


def _tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def links(parts: tuple[str, ...], folder: Path, say=print) -> list[str]:
    """A folder of a run that leads into another run: rebuilding, replaying, cleaning and deleting leave the other
    run as it is, byte for byte."""
    original = new_run(runs.outputs_root(folder / "whole-links"), SHORT)
    outcomes = []
    for part in parts:
        root = runs.outputs_root(folder / f"linked-{part}")
        for name in ("a", "b"):
            shutil.copytree(original.path, root / name)
        run, other = root / "a", root / "b"
        shutil.rmtree(run / part)
        (run / part).symlink_to(f"../b/{part}")
        before = _tree(other)
        for words in (
            ("rebuild", "a", "--mode", "recompute"),
            ("attribute", "a", "--targets", "test:2"),
            ("clean", "a", "--parts", part if part != "model" else "trajectory"),
            ("clean", "a", "--all"),
        ):
            with engine(root, *words) as process:
                said, _ = process.communicate()
            assert "Traceback" not in said, said
            assert _tree(other) == before, f"`{' '.join(words)}` changed another run through a linked {part}/"
            outcomes.append(f"{words[0]:9} with a linked {part + '/':12} {said.strip().splitlines()[-1][:150]}")
            say(outcomes[-1])
    return outcomes


# -- two processes, and file systems that refuse


def two_processes(folder: Path) -> str:
    """While one process works on a run, another can neither work on it, clean it nor delete it, and says so."""
    root, hold = runs.outputs_root(folder / "two"), Hold("train", 1, folder / "gate")
    with engine(root, "run", *settings(SHORT), hold=hold) as first:
        run = the_run(root, first)
        assert _is_held(run, first, hold), "the first process ended before the others asked"
        others = [("resume", run.id), ("attribute", run.id, "--targets", "test:1"), ("clean", run.id, "--all")]
        with ExitStack() as stack:
            said = [stack.enter_context(engine(root, *words)).communicate()[0] for words in others]
        hold.open()
        assert all("error:" in text and "Traceback" not in text for text in said), said
        words, _ = first.communicate()
        assert first.returncode == 0, words
    assert np.array_equal(run.scores().matrix("loss-000"), whole(SHORT)), "another process changed the scores"
    return f"{len(others)} other processes were refused while one worked on the run"


# Call, error, from which call on; whether a run ends well all the same.
REFUSALS = (
    ("fsync", "EINVAL", 1, True),  # a file system that cannot sync
    ("fsync", "EIO", 1, False),
    ("fsync", "EIO", 9, False),
    ("flock", "ENOLCK", 1, False),
    ("flock", "EOPNOTSUPP", 1, False),
    ("?chmod,?fchmod,?fchmodat", "EPERM", 1, True),  # one whose files have no modes
    ("?rename,?renameat,?renameat2", "ESTALE", 1, False),
    ("?rename,?renameat,?renameat2", "EROFS", 6, False),
    ("?mkdir,?mkdirat", "EROFS", 2, False),
    ("?mkdir,?mkdirat", "EDQUOT", 4, False),
)


def refused_calls(cases, folder: Path, say=print) -> list[str]:
    """A run on a file system that refuses a call (strace puts the error in its place): it ends with the same scores,
    or with one sentence that names the path; no folder without a manifest stays, and what was begun is resumed."""
    if shutil.which("strace") is None:
        return ["skipped: strace is not installed"]
    expected, outcomes = whole(SHORT), []
    for number, (calls, code, first, works) in enumerate(cases):
        root = runs.outputs_root(folder / f"refused-{number}")
        inject = ("strace", "-f", "-qq", "--seccomp-bpf", "-o", os.devnull, "-e", f"trace={calls}", "-e")
        inject += (f"inject={calls}:error={code}:when={first}+",)
        with engine(root, "run", *settings(SHORT), before=inject) as process:
            said, _ = process.communicate()
        name = f"{calls.split(',')[0].lstrip('?')} with {code} from call {first} on"
        left = list(root.iterdir())
        if works:
            assert process.returncode == 0, (name, said)
        else:
            assert process.returncode == 1 and str(root) in said and "Traceback" not in said, (name, said)
            assert all((path / "manifest.json").exists() for path in left), (name, left)
            assert not list(root.rglob(".tmp-*")), name
        for run in runs.list_runs(root):
            if run.status != "finished":
                finish(run)
            assert np.array_equal(run.scores().matrix("loss-000"), expected), name
        outcomes.append(f"{name}: {'works' if works else [s for s in said.splitlines() if 'error:' in s][-1][:150]}")
        say(outcomes[-1])
    return outcomes


# -- space, and servers


@contextmanager
def small_disk(folder: Path, size: int):
    """A tmpfs of `size` bytes at `folder`; yields None where mounting is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = (
        os.geteuid() == 0
        and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True
        ).returncode
        == 0
    )
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def full_disk(folder: Path) -> str:
    """A disk that fills up while the run writes, and is freed: the run pauses and goes on. Where no
    disk can be mounted, a limit on file sizes: the run fails, and is resumed without it."""
    expected = whole(SHORT)
    with small_disk(folder / "small", space.RESERVE + 40_000_000) as disk:
        if disk is not None:
            ballast = disk / "ballast"
            ballast.write_bytes(bytes(39_600_000))
            with engine(disk, "run", *settings(SHORT)) as process:
                run = the_run(disk, process)
                while not any(e["kind"] == "paused" for e in run.events()[0]):
                    assert process.poll() is None, "the run did not pause"
                    time.sleep(0.05)
                held = sum(p.stat().st_size for p in (run.path / "trajectory").iterdir())
                time.sleep(2)
                assert run.status == "training" and process.poll() is None
                ballast.unlink()
                said, _ = process.communicate()
                assert process.returncode == 0, said
            assert np.array_equal(run.scores().matrix("loss-000"), expected)
            return f"a disk that was full after {held:,} bytes: paused, went on, same scores"
    root = runs.outputs_root(folder / "limited")
    with engine(root, "run", *settings(SHORT), limit=15_000) as process:
        said, _ = process.communicate()
        assert process.returncode == 1 and "No space left" in said, said
    (run,) = runs.list_runs(root)
    finish(run)
    assert np.array_equal(run.scores().matrix("loss-000"), expected)
    return "no disk can be mounted here; a limit on file sizes: failed with its remedy, resumed, same scores"


def stopped_server(folder: Path, which: signal.Signals, phase: str, mode: str) -> str:
    """The app's real server, asked to stop by a signal while it works on a run that a person resumed in a real
    browser: the run is interrupted and not failed, the process ends without a traceback or an abort, and the run is
    resumed to the same scores. `phase` is "train" or "replay"."""
    from tools import serve  # needs a browser, which the rest here does not

    root = runs.outputs_root(folder / f"served-{which.name}-{phase}-{mode}")
    run = runs.Run.create(root, KILLED.replace(replay_mode=mode))  # as one that was queued when its server died
    errors, hold = folder / "server.txt", Hold(phase, SEGMENT + 1, folder / "never")
    with serve.chromium() as browser:
        page = browser.new_page()
        with serve.serving(root, errors=errors, hold=hold) as (url, process):
            page.goto(f"{url}/Live?run={run.id}")
            page.get_by_role("button", name="Resume the run").click()
            while steps_done(run) < (phase, hold.step) or steps_done(run)[0] != phase:
                assert process.poll() is None and run.status not in ("failed", "finished"), run.status
                page.wait_for_timeout(20)  # the browser lives, too
            process.send_signal(which)
            code = process.wait(120)
            phase, step = steps_done(run)
            page.goto("about:blank")
    said = errors.read_text()
    assert code == 0, (code, said)  # an abort is -6; -15 would be an end where it stands
    assert "Traceback" not in said and "terminate called" not in said and "Error" not in said, said
    assert run.status == "interrupted" and not run.manifest().error, (run.status, run.manifest().error)
    assert not {"failed", "cancelled"} & {e["kind"] for e in run.events()[0]} and not (run.path / "log.txt").exists()
    finish(run)
    assert run.status == "finished" and np.array_equal(run.scores().matrix("loss-000"), whole(KILLED))
    _check_lost(run, mode)
    return f"a server stopped by {which.name} at {phase} step {step} in {mode} mode: exit code {code}, same scores"


def peak_memory(folder: Path, steps: int, mode: str = "disk") -> int:
    """Bytes resident at the peak of a process that makes a run of that many steps."""
    root = runs.outputs_root(folder / f"{mode}-{steps}")
    with engine(
        root,
        "run",
        "--mode",
        mode,
        "--targets",
        "test:0",
        "--set",
        "recipe.batch_size=60",
        "--set",
        f"recipe.epochs={steps // 100}",
    ) as process:
        said, _ = process.communicate()
        assert process.returncode == 0, said
    (run,) = runs.list_runs(root)
    assert run.manifest().steps == steps
    return run.manifest().peak_bytes["rss"]


def main() -> None:
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        killed = kills(30, seed, folder / "kills")
        for mode in configs.REPLAY_MODES:
            mine = [row for row in killed if row["mode"] == mode]
            print(
                f"{mode}: {len(mine)} kills, "
                + ", ".join(
                    f"{sum(r['phase'] == p for r in mine)} in {p}" for p in ("prepare", "train", "rebuild", "replay")
                )
            )
        print(f"{len(killed)} kills: bitwise the same scores; at most one segment of work lost")
        rows = corruptions(100, seed, folder / "corruptions", draw_pages)
        harmless = sum(row["outcome"].startswith("harmless") for row in rows)
        print(
            f"{len(rows)} corruptions: {len(rows) - harmless} detected, {harmless} harmless; no changed score, "
            "no page without a message"
        )
        everything = [(kind, name) for kind in KINDS for name in NAMES]
        odd = odd_files(everything, folder / "odd", draw_pages)
        print(f"{len(odd)} files of other kinds: no hang, no other error, no changed score")
        links(("trajectory", "scores", "validation", "model"), folder / "links")
        print(two_processes(folder / "two"))
        refused_calls(REFUSALS, folder / "calls")
        print(full_disk(folder / "disk"))
        for which, phase, mode in itertools.product(
            (signal.SIGTERM, signal.SIGINT), ("train", "replay"), configs.REPLAY_MODES
        ):
            print(stopped_server(folder, which, phase, mode))
        short, long = (peak_memory(folder / "peak", steps) for steps in (100, 1600))
        held = peak_memory(folder / "peak", 1600, "memory")
        print(
            f"peak memory in disk mode: {short / 1e6:.0f} MB at T = 100, {long / 1e6:.0f} MB at T = 1,600 "
            f"({long / short - 1:+.1%}); memory mode at T = 1,600: {held / 1e6:.0f} MB"
        )
        assert abs(long / short - 1) <= 0.1
    print(f"seed {seed}: all held")


if __name__ == "__main__":
    main()
