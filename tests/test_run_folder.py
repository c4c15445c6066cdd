"""A run's folder between processes and in bad hands: locks, the log, notes, deletions, lists of many."""

import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from engine import files
from engine.__main__ import main
from engine.errors import (
    ConfigError,
    IntegrityError,
    ReplayError,
    RunBusyError,
    RunNotFoundError,
    StorageError,
)
from engine.runs import lock, manifest, notes, storage, uploads
from engine.runs import run as runs
from engine.runs.events import EventLog
from engine.runs.progress import Progress, follow
from tests.helpers import ROOT
from tests.made_up import SAMPLE, run_of
from ui import formats

N = 6000


@pytest.fixture
def root(tmp_path) -> Path:
    return runs.outputs_root(tmp_path / "outputs")


@pytest.fixture
def run(root) -> runs.Run:
    return run_of(root, "one", {("test:0", "test:1"): ("loss", np.ones((2, N)))})


def started(code: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


# -- the lock


def test_looking_makes_nobody_fail(run):
    """Another thread looks without a pause; every acquisition succeeds all the same."""
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            runs.Run(run.root, run.id).lock().is_held()

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(200):
            os.close(run.lock().acquire())
    finally:
        stop.set()
        for looker in lookers:
            looker.join()


def test_a_lock_that_is_let_go_in_a_moment_is_waited_for(run, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 60.0)
    held = run.lock().acquire()
    waiting = threading.Event()
    pause = lock.time.sleep

    def sleep(seconds: float) -> None:
        waiting.set()
        pause(seconds)

    monkeypatch.setattr(lock.time, "sleep", sleep)

    def let_go() -> None:
        waiting.wait()
        os.close(held)

    holder = threading.Thread(target=let_go)
    holder.start()
    taken = lock.FileLock(run.path / ".lock", ("busy", ""), patience=60.0).acquire()
    holder.join()
    os.close(taken)


def test_a_lock_held_by_another_process_is_seen_and_freed_by_its_death(run):
    code = (
        "import sys; from pathlib import Path; from engine.runs.run import Run; "
        "Run.open(Path(sys.argv[1]), sys.argv[2]).lock().acquire(); print('held', flush=True); sys.stdin.read()"
    )
    with started(code, str(run.root), run.id) as process:
        assert process.stdout.readline() == "held\n"
        assert run.lock().is_held()
        with pytest.raises(RunBusyError, match="in use by a job in progress"):
            run.lock().acquire()
        process.kill()
    assert not run.lock().is_held()
    os.close(run.lock().acquire())


def test_a_file_system_without_locks_is_named(run, monkeypatch):
    def refuse(handle, kind):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with pytest.raises(StorageError, match="has no file locks") as error:
        run.lock().acquire()
    assert "local disk" in error.value.remedy and str(run.path) in error.value.what
    assert not run.lock().is_held()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda p: p.symlink_to("/dev/zero")])
def test_what_stands_in_the_place_of_a_lock_blocks_nothing(run, make):
    path = run.path / ".lock"
    path.unlink(missing_ok=True)
    make(path)
    assert not run.lock().is_held() and run.status == "finished"
    with pytest.raises(StorageError):
        run.lock().acquire()
    run.storage().delete()
    assert not run.path.exists()


# -- the manifest, read once


def test_a_record_is_one_view_whatever_happens_to_the_run(run):
    record = run.manifest()
    targets = record.score_sets.targets()
    run.storage().clean(("logs",))
    run.update_manifest(status_said="failed")
    assert record.status == "finished" and record.score_sets.targets() == targets
    assert run.manifest().status == "failed"


def test_a_manifest_that_was_read_before_is_not_read_again_and_a_changed_one_is(run, monkeypatch):
    read = []
    exact = files.read_json
    monkeypatch.setattr(files, "read_json", lambda path, *a, **k: read.append(path.name) or exact(path, *a, **k))
    long_ago = time.time_ns() - 10**12
    os.utime(run.path / "manifest.json", ns=(long_ago, long_ago))
    first = run.manifest()
    assert run.manifest() == first and read == ["manifest.json"]
    assert run.manifest().config == run.manifest().config and read[1:] == ["config.json"] * 2, "its files are"
    text = (run.path / "manifest.json").read_text()
    (run.path / "manifest.json").write_text(text.replace('"finished"', '"failed!!"'))
    os.utime(run.path / "manifest.json", ns=(long_ago, long_ago))  # the same size, and the same time
    with pytest.raises(IntegrityError, match="has changed"):
        run.manifest()


def test_creation_that_fails_leaves_nothing(root, monkeypatch):
    exact = files.write_json

    def full(path, value):
        if path.name == "manifest.json":
            raise StorageError("No space left.", "Free some.")
        return exact(path, value)

    monkeypatch.setattr(files, "write_json", full)
    with pytest.raises(StorageError, match="No space"):
        runs.Run.create(root, SAMPLE)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("name", ["~nosuchuser/x", "loop", "loop/x", "x" * 300, "x/" * 3000, "/dev/null/x", "a-file"])
def test_an_outputs_folder_that_cannot_be_is_a_sentence(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "a-file").touch()
    assert main(["list", f"--outputs={name}"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-file", "loop"]


def test_an_outputs_folder_may_have_any_name(tmp_path):
    root = runs.outputs_root(tmp_path / '-a "b" %s {c}\n é 🎈')
    assert run_of(root, "one", {("test:0",): ("loss", np.ones((1, N)))}).scores().targets()
    assert main(["list", f"--outputs={root}"]) == 0


# -- lists


def test_a_damaged_run_is_listed_with_its_reason_and_the_others_as_ever(root, run):
    for name, damage in {
        "folder": lambda p: p.mkdir(),
        "pipe": os.mkfifo,
        "not-utf-8": lambda p: p.write_bytes(b"\xff\xfe"),
        "nested": lambda p: p.write_text("[" * 100_000),
        "link": lambda p: p.symlink_to(run.path / "manifest.json"),
        "device": lambda p: p.symlink_to("/dev/zero"),
        "gone": lambda p: None,
        "number": lambda p: p.write_text("NaN"),
    }.items():
        (root / name).mkdir()
        damage(root / name / "manifest.json")
    listed = {summary.id: summary for summary in runs.summaries(root)}
    assert listed.pop("one").status == "finished" and len(listed) == 8
    for summary in listed.values():
        assert summary.status == "damaged" and "manifest.json" in summary.remark, summary
        assert main(["clean", summary.id, "--all", "--outputs", str(root)]) == 0
    assert [summary.id for summary in runs.summaries(root)] == ["one"]


def test_what_is_passed_over_is_named(root, run, capsys):
    (root / "My_baseline").mkdir()
    (root / "baseline").symlink_to(run.path)
    (root / "notes.txt").write_text("")
    assert [name for name, _ in runs.passed_over(root)] == ["My_baseline", "baseline"]
    assert main(["list", "--outputs", str(root)]) == 0
    said = capsys.readouterr().out
    assert "My_baseline" in said and "no run id" in said and "'baseline' (it is a link" in said
    assert main(["info", "baseline", "--outputs", str(root)]) == 3
    assert "is a link" in capsys.readouterr().err


@pytest.mark.slow
def test_five_hundred_runs_are_listed_without_a_look_at_what_is_in_them(root, run, monkeypatch):
    """A look that was had before takes no reading at all."""
    run.update_manifest(**run.totals())
    for number in range(500):
        folder = root / f"copy-{number:03d}"
        folder.mkdir()
        for name in ("manifest.json", "config.json"):
            shutil.copy(run.path / name, folder / name)
        os.utime(folder / "manifest.json", (1e9, 1e9))
    os.utime(run.path / "manifest.json", (1e9, 1e9))
    first = runs.summaries(root)
    assert len(first) == 501 and {s.targets_scored for s in first} == {2} and all(s.sizes for s in first)
    read = []
    exact = files.read_bytes
    monkeypatch.setattr(files, "read_bytes", lambda path, *a, **k: read.append(path) or exact(path, *a, **k))
    assert runs.summaries(root) == first and read == []


def old(path: Path) -> None:
    """Changed so long ago that a look may keep what it saw."""
    os.utime(path, (1e9, 1e9))


def made_in(run: runs.Run, year: int) -> bytes:
    """Its manifest, had it been made in that year: as long as it is."""
    record, elsewhere = run.manifest(), run.root.parent / f"{year}.json"
    files.write_json(elsewhere, dataclasses.replace(record, created=f"{year}{record.created[4:]}").to_json())
    assert elsewhere.stat().st_size == (run.path / "manifest.json").stat().st_size
    return elsewhere.read_bytes()


def rewritten(run: runs.Run) -> None:
    """In its place, and with the time that it had."""
    (run.path / "manifest.json").write_bytes(made_in(run, 1066))


def replaced_by_a_link(run: runs.Run) -> None:
    path = run.path / "manifest.json"
    path.symlink_to(path.rename(run.root / "elsewhere.json"))


@pytest.mark.parametrize(
    "change",
    [
        lambda run: run.update_manifest(test_accuracy=0.5),
        rewritten,
        lambda run: (run.path / "manifest.json").write_text("["),
        lambda run: (run.path / "manifest.json").unlink(),
        replaced_by_a_link,
        lambda run: run.path.rename(run.root / "two"),
        lambda run: run.path.rename(run.root / f"{storage.DELETED}one"),
    ],
    ids=["changed", "rewritten", "damaged", "gone", "a link", "renamed", "deleted"],
)
def test_a_list_says_what_has_changed_since_the_last_look(root, run, change):
    old(run.path / "manifest.json")
    (before,) = runs.summaries(root)
    assert runs.summaries(root) == [before] and before.status == "finished"
    change(run)
    if (run.path / "manifest.json").is_file():
        old(run.path / "manifest.json")
    after = runs.summaries(root)
    assert after == [runs.summary(each) for each in runs.list_runs(root)] and after != [before]


def test_a_list_believes_no_time_that_a_file_could_have_got_again(root, run, monkeypatch):
    """There are file systems whose clocks tick every two seconds."""
    exact = os.lstat

    def coarse(path, *args, **kwargs):
        found = exact(path, *args, **kwargs)
        seconds = {name: getattr(found, name) // 2 * 2 for name in ("st_mtime", "st_ctime")}
        times = {f"{name}_ns": int(value * 1e9) for name, value in seconds.items()}
        same = {name: getattr(found, name) for name in ("st_dev", "st_ino", "st_size", "st_mode")}
        return SimpleNamespace(**same, **seconds, **times)

    texts = {str(year): made_in(run, year) for year in range(1000, 1010)}
    monkeypatch.setattr(os, "lstat", coarse)
    for year, text in texts.items():
        (run.path / "manifest.json").write_bytes(text)
        (listed,) = runs.summaries(root)
        assert listed.created.startswith(year)


def test_a_list_says_who_works_on_a_run_whose_manifest_stays_as_it_is(root, run):
    run.update_manifest(status_said="training")
    old(run.path / "manifest.json")
    for _ in range(2):
        assert [each.status for each in runs.summaries(root)] == ["interrupted"]
        with run.lock():
            assert [each.status for each in runs.summaries(root)] == ["training"]


def test_a_list_reads_a_configuration_again_that_could_not_be_read(root, run):
    old(run.path / "manifest.json")
    path = (run.path / "config.json").rename(root / "away")
    assert [each.seed for each in runs.summaries(root)] == [None] == [each.seed for each in runs.summaries(root)]
    path.rename(run.path / "config.json")
    assert [each.seed for each in runs.summaries(root)] == [0]


# -- disk


def test_sizes_of_fifty_thousand_states_are_known_again_without_counting(run, monkeypatch):
    folder = run.path / "trajectory"
    for number in range(2000):
        (folder / f"step-{number:07d}").write_bytes(b"x" * 10)
    assert run.storage().sizes()["trajectory"] == 20_000
    os.utime(folder, (1e9, 1e9))
    looks = []
    exact = storage._look
    monkeypatch.setattr(storage, "_look", lambda path: looks.append(path) or exact(path))
    assert [run.storage().sizes()["trajectory"] for _ in range(3)] == [20_000] * 3
    assert looks.count(str(folder)) == 1
    (folder / "one-more").write_bytes(b"y")
    assert run.storage().sizes()["trajectory"] == 20_001


def test_what_could_not_be_deleted_is_not_said_to_be_freed(run, monkeypatch):
    folder = run.path / "trajectory"
    (folder / "a").write_bytes(b"x" * 100)
    (folder / "b").write_bytes(b"x" * 900)
    stays(monkeypatch, "b")
    with pytest.raises(StorageError, match=r"b cannot be deleted .*; 100 bytes were freed"):
        run.storage().clean(("trajectory",))
    assert run.storage().sizes()["trajectory"] == 900 and run.manifest().kept_mode is None
    cleaned = [e for e in run.events()[0] if e["kind"] == "cleaned"]
    assert cleaned[-1]["bytes"] == 100


def stays(monkeypatch, name: str) -> None:
    """The system refuses to delete files of this name: root may delete what its owner may not."""
    exact = os.unlink

    def unlink(path, *args, **kwargs):
        if os.path.basename(path) == name:
            raise PermissionError(1, "Operation not permitted", str(path))
        return exact(path, *args, **kwargs)

    monkeypatch.setattr(os, "unlink", unlink)


def test_a_deletion_that_fails_half_way_is_listed_and_finished_by_the_next_look(run, root, monkeypatch, capsys):
    (run.path / "trajectory" / "stubborn").write_bytes(b"x" * 900)
    with monkeypatch.context() as refused:
        stays(refused, "stubborn")
        with pytest.raises(StorageError, match="one is half-deleted: .*stubborn cannot be deleted"):
            run.storage().delete()
        (summary,) = runs.summaries(root)
        assert summary.id == "one" and summary.status == "half-deleted" and "stubborn" in summary.remark
        assert [r.id for r in runs.list_runs(root)] == ["one"] and run.status == "half-deleted"
        assert run.storage().sizes()["trajectory"] == 900
        with pytest.raises(RunNotFoundError, match="half-deleted"):
            runs.Run.open(root, "one")
        assert main(["list", "--outputs", str(root)]) == 0 and "half-deleted" in capsys.readouterr().out
        assert main(["clean", "one", "--all", "--outputs", str(root)]) == 1
    assert runs.summaries(root) == [] and list(root.iterdir()) == []


def test_half_deleted_runs_are_shown_and_left_alone_in_read_only_mode(run, root, monkeypatch):
    run.path.rename(root / f"{storage.DELETED}one")
    monkeypatch.setenv("REPLAY_READ_ONLY", "1")
    (summary,) = runs.summaries(root)
    assert summary.status == "half-deleted" and (root / f"{storage.DELETED}one" / "manifest.json").exists()


def test_a_deletion_beside_a_starting_server_ends_well(run, root):
    """Another process sweeps for as long as this one deletes."""
    code = (
        "import sys; from pathlib import Path; from engine.runs import run as runs\n"
        "print('ready', flush=True)\n"
        "while not (Path(sys.argv[1]) / 'stop').exists(): runs.summaries(Path(sys.argv[1]))"
    )
    for number in range(300):
        (run.path / "trajectory" / f"step-{number}").write_bytes(b"x")
    with started(code, str(root)) as process:
        assert process.stdout.readline() == "ready\n"
        assert run.storage().delete() > 300
        (root / "stop").touch()
        assert process.wait() == 0
    assert [p.name for p in root.iterdir()] == ["stop"]


def test_who_looks_while_a_run_is_deleted_keeps_off_it(run, root, monkeypatch):
    exact, looks = storage._remove, []

    def remove(path: Path, left: list) -> None:
        if not looks:
            looks.append(runs.summaries(root))
        exact(path, left)

    monkeypatch.setattr(storage, "_remove", remove)
    assert run.storage().delete() > 0
    ((summary,),) = looks
    assert summary.status == "half-deleted" and "in use" in summary.remark
    assert list(root.iterdir()) == []


def test_what_another_process_deletes_at_the_same_time_is_no_failure(run, root, monkeypatch):
    (run.path / "trajectory" / "step").write_bytes(b"x")
    exact = os.unlink

    def unlink(path, *args, **kwargs):
        exact(path, *args, **kwargs)
        exact(path, *args, **kwargs)  # what the slower of two meets

    monkeypatch.setattr(os, "unlink", unlink)
    assert run.storage().delete() > 0
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("part", ["trajectory", "scores", "validation"])
def test_a_linked_folder_never_leads_into_another_run(run, root, part):
    other = run_of(root, "other", {("test:0",): ("loss", np.ones((1, N)))})
    (other.path / part / "precious").write_bytes(b"x")
    shutil.rmtree(run.path / part)
    (run.path / part).symlink_to(other.path / part)
    with pytest.raises(StorageError, match="is a link"):
        run.storage().clean((part,))
    assert main(["clean", run.id, "--parts", part, "--outputs", str(root)]) == 1
    run.storage().delete()
    assert (other.path / part / "precious").exists() and not run.path.exists()


@pytest.mark.parametrize("mode", ["disk", "recompute"])
def test_no_job_works_through_a_link_on_another_runs_states(root, mode):
    """Both kinds of files are there, so that each mode has something to delete, and nothing that it must write."""
    for name in ("a", "b"):
        shutil.copytree(Path(__file__).parent / "fixtures" / "schema-2" / "finished", root / name)
    states = root / "b" / "trajectory"
    (states / "step-0000000.safetensors").write_bytes(b"x")
    shutil.rmtree(root / "a" / "trajectory")
    (root / "a" / "trajectory").symlink_to(states)
    before = {path.name: path.read_bytes() for path in states.iterdir()}
    assert main(["rebuild", "a", "--mode", mode, "--outputs", str(root)]) == 1
    assert {path.name: path.read_bytes() for path in states.iterdir()} == before


def test_a_backup_by_hard_links_stays_as_it_was(run, root):
    """`cp -al`, as rsnapshot and others make them: what is added to a log must not be added to its copy."""
    run.events_log.append("note", text="before")
    files.append(run.path / "log.txt", b"before\n")
    subprocess.run(["cp", "-al", run.path, root / "backup"], check=True)
    before = {path: path.read_bytes() for path in (root / "backup").rglob("*") if path.is_file()}
    run.events_log.append("note", text="after")
    files.append(run.path / "log.txt", b"after\n")
    run.update_manifest(status_said="failed")
    notes.tick(run, {1: True}, N)
    assert {path: path.read_bytes() for path in (root / "backup").rglob("*") if path.is_file()} == before
    assert [e["text"] for e in run.events()[0]][-2:] == ["before", "after"]
    assert (run.path / "log.txt").read_text() == "before\nafter\n"


def test_a_linked_log_is_not_replaced(run, tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("")
    path = run.path / "events.jsonl"
    path.unlink(missing_ok=True)
    path.symlink_to(outside)
    with pytest.raises(StorageError):
        run.events_log.append("note", text="x")
    with pytest.raises(StorageError, match="is a link"):
        run.storage().clean(("logs",))
    assert outside.read_text() == ""


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda p: p.symlink_to("/dev/zero"), Path.touch])
def test_what_stands_in_the_place_of_an_upload_is_named(run, make):
    (run.path / "uploads").mkdir()
    make(run.path / "uploads" / f"{'0' * 16}.png")
    with pytest.raises(IntegrityError, match=r"0{16}\.png"):
        uploads.read(run, "0" * 16)


@pytest.mark.slow
def test_a_bomb_under_its_own_digest_is_not_decoded(run):
    """Who sends a run may name any file as an upload."""
    (run.path / "uploads").mkdir()
    content = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(content, "PNG")
    name = uploads._id(content.getvalue())
    (run.path / "uploads" / f"{name}.png").write_bytes(content.getvalue())
    with pytest.raises(IntegrityError, match="is no image that was kept here"):
        uploads.read(run, name)


# -- files of another hand, whose checksums agree


@pytest.mark.parametrize(
    "path, value",
    [
        (("target_function",), 3),
        (("norm_steps",), [-1]),
        (("targets",), {}),
        (("targets", 0), "test:0"),
        (("targets", 0, "name"), None),
        (("targets", 0, "title"), ["x"]),
        (("targets", 0, "adjoint_growth"), "large"),
        (("targets", 0, "norms"), [1.0, 10**400]),
        (("targets", 1, "logits"), [True]),
    ],
    ids=str,
)
def test_a_description_of_scores_by_another_hand_is_named(run, path, value):
    file = run.path / "scores" / "loss-000.json"
    sidecar = json.loads(file.read_text())
    place = sidecar
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    run.add_files({"scores/loss-000.json": files.write_json(file, sidecar)})
    with pytest.raises(IntegrityError, match=r"loss-000\.json does not describe a score set"):
        run.scores().targets()


@pytest.mark.parametrize(
    "created", ["", "yesterday", "0001-01-01T00:00:00", "9999-12-31T23:59:59", "2025-01-01T00:00:00+23:59"]
)
def test_a_date_of_another_hand_stops_no_list(run, created):
    run.update_manifest(created=created)
    assert formats.age(runs.summary(run).created).rstrip() in ("—", "0 s ago") or created.startswith("2025")


# -- the log


def log_of(path: Path, run_id: str = "one", events: int = 6) -> EventLog:
    log = EventLog(path / f"{run_id}.jsonl", run_id)
    for number in range(events):
        log.append("note", text=f"event {number} of {run_id}")
    return log


def said(events: list[dict]) -> list[str]:
    return [e["text"].split()[1] if e["kind"] == "note" else e["what"] for e in events]


def test_a_sound_log_has_no_damage(tmp_path):
    log = log_of(tmp_path)
    assert said(log.read()[0]) == list("012345")
    at, offset = [], 0
    for number in range(6, 9):  # read on while it grows
        events, offset = log.read(offset)
        at += said(events)
        log.append("note", text=f"event {number} of one")
    assert at == list("01234567") and said(log.read(offset)[0]) == ["8"]


@pytest.mark.parametrize(
    "damage, shown, word",
    [
        (lambda lines: lines[:2] + lines[1:], "0", "twice"),
        (lambda lines: lines[:4] + lines[2:], "0", "twice"),
        (lambda lines: lines[:2] + lines[3:], "01345", "missing"),
        (lambda lines: lines[2:], "2345", "missing"),
        (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], "013245", "another order"),
        (lambda lines: [*lines[:2], bytes(len(lines[2]) - 1) + b"\n", *lines[3:]], "01345", "changed"),
        (lambda lines: [*lines[:2], lines[2][:20] + b"\n", *lines[3:]], "01345", "changed"),
        (lambda lines: [*lines[:2], lines[2].replace(b"event", b"Event"), *lines[3:]], "01345", "changed"),
        (lambda lines: [*lines[:5], lines[5][:30]], "01234", "cut"),
        (lambda lines: [*lines[:3], b"[" * 100_000 + b"\n", *lines[3:]], "012345", "changed"),
        (lambda lines: [*lines, bytes(5000)], "012345", "cut"),
    ],
)
def test_damage_of_the_log_is_said_and_the_rest_shown(tmp_path, damage, shown, word):
    log = log_of(tmp_path)
    log.path.write_bytes(b"".join(damage(log.path.read_bytes().splitlines(keepends=True))))
    os.utime(log.path, (1e9, 1e9))  # nobody is writing
    events = log.read()[0]
    told = follow(Progress(), events)
    notes_of = "".join(e["text"].split()[1] for e in events if e["kind"] == "note")
    assert notes_of == (shown if shown != "0" else "012345")
    assert told.damage and any(word in what for what in told.damage), told.damage


def test_the_log_of_another_run_is_not_shown_as_this_ones(tmp_path):
    ours, theirs = log_of(tmp_path), log_of(tmp_path, "other")
    shutil.copy(theirs.path, ours.path)
    (event,) = ours.read()[0]
    assert event["kind"] == "unreadable" and "of another run, other" in event["what"]
    mixed = log_of(tmp_path / "x" if (tmp_path / "x").mkdir() is None else tmp_path)
    lines = mixed.path.read_bytes().splitlines(keepends=True)
    mixed.path.write_bytes(b"".join([*lines[:3], theirs.path.read_bytes(), *lines[3:]]))
    events = mixed.read()[0]
    assert [e["kind"] for e in events] == ["note"] * 3 + ["unreadable"] + ["note"] * 3


def test_a_run_whose_folder_was_renamed_keeps_its_log(run, root):
    run.events_log.append("note", text="before")
    run.path.rename(root / "renamed")
    renamed = runs.Run.open(root, "renamed")
    renamed.events_log.append("note", text="after")
    assert [e.get("text") for e in renamed.events()[0]][-2:] == ["before", "after"]
    assert follow(Progress(), renamed.events()[0]).damage == []


@pytest.mark.parametrize(
    "event",
    [
        {"kind": "note", "time": 1e300},
        {"kind": "note", "time": -1.0},
        {"kind": "phase", "phase": "train", "steps": 10**400},
        {"kind": "phase", "phase": "train", "steps": 3, "done": 4},
        {"kind": "progress", "phase": "train", "step": 4, "steps": 3},
        {"kind": "progress", "phase": "train", "step": -1, "steps": 3},
        {"kind": "progress", "phase": "train", "step": 1, "steps": 3, "rss": 1e300},
        {"kind": "progress", "phase": "train", "step": 1, "steps": 3, "losses": [10**400]},
        {"kind": "started", "job": ["run"]},
        {"kind": "progress"},
        {"kind": "phase", "phase": ["train"], "steps": 3},
        {"kind": "progress", "phase": "train", "step": "many", "steps": 3},
        {"kind": "progress", "phase": "train", "step": 1, "steps": 3, "losses": "abc"},
        {"kind": "progress", "phase": "train", "step": 1, "steps": 3, "rss": {}},
        {"kind": "cleaned", "parts": [[1]], "bytes": 1},
        {"kind": 5},
        {"kind": "paused"},
    ],
)
def test_an_event_without_its_fields_is_damage_whatever_its_checksum(tmp_path, event):
    log = log_of(tmp_path)
    log.append(**{"kind": "note", "text": "x"} | event)
    events, _ = log.read()
    assert events[-1]["kind"] == "unreadable" and len(events) == 7
    follow(Progress(), events)


def test_a_retraining_is_a_phase_as_the_others():
    told = follow(
        Progress(),
        [
            {"kind": "phase", "phase": "retrain", "steps": 8},
            {"kind": "progress", "phase": "retrain", "step": 2, "steps": 8, "rate": 2.0, "time": 0.0},
        ],
    )
    assert told.phase == "retrain" and told.fraction == 0.25 and told.seconds_left == 3.0


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda p: p.symlink_to("/dev/zero")])
def test_what_stands_in_the_place_of_the_log_is_named(run, make):
    path = run.path / "events.jsonl"
    path.unlink(missing_ok=True)
    make(path)
    with pytest.raises(IntegrityError, match=r"events\.jsonl"):
        run.events()
    assert run.status == "finished"


# -- notes


@pytest.mark.slow
def test_ticks_of_two_processes_are_all_kept(run):
    code = (
        "import sys; from pathlib import Path; from engine.runs import notes; from engine.runs.run import Run\n"
        "run, first = Run.open(Path(sys.argv[1]), 'one'), int(sys.argv[2])\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for i in range(150): notes.tick(run, {first + 2 * i: True}, 6000)\n"
    )
    processes = [started(code, str(run.root), str(first)) for first in (0, 1)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        assert process.wait() == 0
        process.stdin.close()
        process.stdout.close()
    assert notes.read(run).ticked == tuple(range(300))


@pytest.mark.parametrize(
    "content, problem",
    [
        ({"ticked": [6000], "notes": {}}, "no training image 6000"),
        ({"ticked": [], "notes": {"6000": "x"}}, "no training image 6000"),
        ({"ticked": [], "notes": {"007": "x"}}, "on no training image"),
        ({"ticked": [], "notes": {"9" * 5000: "x"}}, "on no training image"),
        ({"ticked": [], "notes": {"run": "x" * 10_001}}, "more than 10,000"),
        ({"ticked": {"1": 2}, "notes": {}}, "not whole numbers"),
        ({"ticked": [True], "notes": {}}, "not whole numbers"),
    ],
)
def test_notes_that_cannot_be_are_named(run, content, problem):
    (run.path / "notes.json").write_text(json.dumps(content))
    with pytest.raises(IntegrityError, match=problem):
        notes.read(run, N)


def test_half_a_character_is_no_note(run):
    (run.path / "notes.json").write_text('{"ticked": [], "notes": {"run": "\\ud800"}}')
    with pytest.raises(IntegrityError, match="notes.json is damaged"):
        notes.read(run)
    (run.path / "notes.json").unlink()
    with pytest.raises(ConfigError, match="lone surrogate"):
        notes.write_note(run, notes.RUN, "x\ud800")
    with pytest.raises(ConfigError, match="no training image 6000"):
        notes.write_note(run, 6000, "x", N)
    assert notes.read(run) == notes.Notes()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda p: p.symlink_to("/dev/zero")])
def test_what_stands_in_the_place_of_notes_is_named(run, make):
    make(run.path / "notes.json")
    with pytest.raises(IntegrityError, match=r"notes\.json"):
        notes.read(run)
    with pytest.raises(ReplayError):
        notes.tick(run, {1: True}, N)
    assert manifest.SCHEMA == 3 and run.status == "finished"
