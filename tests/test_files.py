"""The ground: files whole or absent, readers that nothing surprises, deletions that follow no link."""

import errno
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from engine import files
from engine.errors import ConfigError, IntegrityError, StorageError
from engine.jobs.queue import JobQueue

ROOT = Path(__file__).parents[1]


# -- reading: regular files only, bounded, whole


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


OTHER_KINDS = {
    "folder": (lambda p: p.mkdir(), "a folder"),
    "pipe": (lambda p: os.mkfifo(p), "a pipe"),
    "socket": (_socket, "a socket"),
    "link to nothing": (lambda p: p.symlink_to("nowhere"), "a link"),
    "link to a file": (lambda p: p.symlink_to(ROOT / "README.md"), "a link"),
    "link to itself": (lambda p: p.symlink_to(p.name), "a link"),
    "endless link": (lambda p: p.symlink_to("/dev/zero"), "a link"),
    "device": (lambda p: os.mknod(p, 0o666 | 0o020000, os.makedev(1, 5)), "a device"),
    "too large, though sparse": (lambda p: (p.touch(), os.truncate(p, 1 << 40)), "1,099,511,627,776 bytes"),
    "missing": (lambda p: None, "is missing"),
}

READERS = {
    "json": lambda path: files.read_json(path, "Do this."),
    "bytes": lambda path: files.read_bytes(path, "Do this."),
    "npy": lambda path: files.read_npy(path, "0" * 64, "Do this."),
    "checksum": lambda path: files.sha256_of(path, "Do this."),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_only_regular_files_of_a_possible_size_are_read(kind, reader, tmp_path):
    make, said = OTHER_KINDS[kind]
    path = tmp_path / "manifest.json"
    try:
        make(path)
    except PermissionError:
        pytest.skip("only root makes devices")
    with pytest.raises(IntegrityError, match=said) as error:
        READERS[reader](path)
    assert str(path) in error.value.what and error.value.remedy == "Do this."


def test_a_file_that_is_exchanged_for_a_pipe_while_we_look_is_refused(tmp_path, monkeypatch):
    path, look = tmp_path / "x", os.lstat
    path.write_text("{}")

    def exchange(name, *args, **kwargs):
        status = look(name, *args, **kwargs)
        path.unlink()
        os.mkfifo(path)
        return status

    monkeypatch.setattr(os, "lstat", exchange)
    with pytest.raises(IntegrityError, match="a pipe"):
        files.read_json(path, "")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_named(tmp_path):
    path = tmp_path / "x"
    path.touch(0o000)
    with pytest.raises(IntegrityError, match="cannot be read"):
        files.read_json(path, "")


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "damaged"),
        (b'{"a": 1', "damaged"),
        (b'{"a": "\xff"}', "utf-8"),
        (b"\xff\xfe{\x00}\x00", "utf-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" * 33 + b"1" + b"]" * 33, "nested too deeply"),
        (b'{"a":' * 900 + b"1" + b"}" * 900, "nested too deeply"),
        (b"NaN", "no finite number"),
        (b'{"a": -Infinity}', "no finite number"),
        (b"[1e999]", "no finite number"),
        (b"1" * 5000, "digits"),
        (b'["\\ud800"]', "surrogates"),
        (b'{"\\udfff": 1}', "surrogates"),
    ],
)
def test_json_that_would_surprise_later_is_refused_at_once(content, said, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=said) as error:
        files.read_json(path, "Do this.")
    assert str(path) in error.value.what


def test_json_that_is_whole_comes_back(tmp_path):
    value = {"a": [1, -2.5, 1e300, None, True], "ü😀": json.loads("[" * 31 + "]" * 31)}
    sha = files.write_json(tmp_path / "x", value)
    assert files.read_json(tmp_path / "x", "", sha) == value and sha == files.sha256_of(tmp_path / "x")
    assert files.parse_json(b'"\\ud83d\\ude00"', "", "") == "😀"
    with pytest.raises(IntegrityError, match="changed"):
        files.read_json(tmp_path / "x", "", "0" * 64)


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": "\ud800"}])
def test_what_could_not_be_read_is_not_written(value, tmp_path):
    files.write_json(tmp_path / "x", 1)
    with pytest.raises(ConfigError, match="cannot hold"):
        files.write_json(tmp_path / "x", value)
    assert files.read_json(tmp_path / "x", "") == 1 and [p.name for p in tmp_path.iterdir()] == ["x"]


def _npy(array, **changes) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    content = buffer.getvalue()
    for old, new in changes.values():
        assert old in content and len(old) == len(new)
        content = content.replace(old, new)
    return content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"PK\x03\x04" + bytes(100),
        _npy(np.ones(3))[:-1],
        _npy(np.ones(3)) + b"\0",
        _npy(np.ones(3), size=(b"(3,)", b"(9,)")),
        _npy(np.ones(3), size=(b"(3,), ", b"(1e9,)")),
        _npy(np.ones((3, 3)), size=(b"(3, 3)", b"(-3,-3"[:5] + b")")),
        _npy(np.array([{}], object)),
        _npy(np.ones(3), kind=(b"<f8", b"|O8")),
        _npy(np.ones(3), kind=(b"'<f8'", b"(((((")),
    ],
)
def test_an_npy_file_whose_header_does_not_fit_is_refused(content, tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="damaged"):
        files.read_npy(path, None, "")


@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.eye(3)), np.empty((0, 4), "f4")])
def test_an_npy_file_comes_back_read_only_and_verified(array, tmp_path):
    sha = files.write_npy(tmp_path / "x.npy", array)
    read = files.read_npy(tmp_path / "x.npy", sha, "")
    assert np.array_equal(read, array) and read.dtype == array.dtype and read.shape == array.shape
    assert array.size == 0 or not read.flags.writeable
    with pytest.raises(IntegrityError, match="changed"):
        files.read_npy(tmp_path / "x.npy", "0" * 64, "")


# -- writing


def test_a_file_is_mapped_once_and_what_takes_its_place_is_mapped_anew(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.arange(6.0))
    first = files.read_npy(path, None, "")
    assert files.read_npy(path, None, "") is first
    np.save(tmp_path / "y.npy", -np.arange(6.0))
    os.replace(tmp_path / "y.npy", path)
    assert np.array_equal(files.read_npy(path, None, ""), -np.arange(6.0)) and np.array_equal(first, np.arange(6.0))


def test_a_mapped_file_that_is_damaged_moved_or_gone_is_told_and_a_map_that_nobody_holds_is_freed(tmp_path):
    path, other = tmp_path / "x.npy", tmp_path / "of-another-run.npy"
    mapped = lambda: str(path) in Path("/proc/self/maps").read_text()  # noqa: E731
    sha = files.write_npy(path, np.arange(6.0))
    first = files.read_npy(path, sha, "")
    os.link(path, other)  # as a run that shares a file has it
    assert files.read_npy(other, sha, "") is first and mapped()
    other.write_bytes(path.read_bytes())  # in place: both are this
    assert files.read_npy(path, sha, "") is first
    with path.open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(np.float64(7).tobytes())
    assert first[5] == 7, "what is mapped is the file"
    with pytest.raises(IntegrityError, match="has changed since it was written"):
        files.read_npy(path, sha, "")
    reshaped = np.lib.format.header_data_from_array_1_0(np.zeros((2, 3)))
    with path.open("r+b") as file:
        np.lib.format.write_array_header_1_0(file, reshaped)
    assert files.read_npy(path, None, "").shape == (2, 3), "another header is another map"
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(IntegrityError, match="its header says"):
        files.read_npy(path, None, "")
    path.unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        files.read_npy(path, None, "")
    assert first.tolist() == [0, 1, 2, 3, 4, 7] and mapped(), "who holds it reads on"
    part = first[2:]
    del first
    assert mapped() and part[0] == 2
    del part
    assert not mapped()


def test_a_file_is_replaced_whole_and_has_the_mode_that_the_umask_says(tmp_path):
    umask = os.umask(0o027)
    try:
        files.write_bytes(tmp_path / "x", b"one")
        assert files.write_bytes(tmp_path / "x", b"two") == files.sha256_of(tmp_path / "x")
    finally:
        os.umask(umask)
    assert (tmp_path / "x").read_bytes() == b"two" and (tmp_path / "x").stat().st_mode & 0o777 == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_the_process_keeps_its_umask():
    """It is the process's: a moment of another one would show in the files that other threads make."""
    code = """
import os, sys
os.umask = lambda mask: sys.exit("the umask was changed")
from pathlib import Path
from engine import files
files.write_bytes(Path(sys.argv[1]) / "x", b"")
"""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", code, folder], cwd=ROOT, check=True)


REFUSALS = {
    errno.EIO: "failed",
    errno.ESTALE: "failed",
    errno.EROFS: "cannot be written",
    errno.EACCES: "cannot be written",
    errno.EPERM: "cannot be written",
    errno.ENOSPC: "No space left",
    errno.EDQUOT: "No space left",
    errno.ENOTSUP: "cannot do what runs need",
    errno.ENOLCK: "cannot do what runs need",
    errno.EMFILE: "cannot be written",
    errno.ENAMETOOLONG: "cannot be written",
    errno.EISDIR: "cannot be written",
}


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
@pytest.mark.parametrize("code", REFUSALS, ids=lambda code: errno.errorcode[code])
def test_every_refusal_of_the_file_system_names_the_path_and_leaves_nothing(code, call, tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    files.write_json(path, "before")

    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, refuse)
    tolerated = call == "fsync" and code in files.UNSUPPORTED
    if tolerated:
        files.write_json(path, "after")
    else:
        with pytest.raises(StorageError, match=REFUSALS[code]) as error:
            files.write_json(path, "after")
        assert str(path) in error.value.what and error.value.remedy
        assert error.value.passing == (code in (errno.ENOSPC, errno.EDQUOT))
    monkeypatch.undo()
    assert files.read_json(path, "") == ("after" if tolerated else "before")
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_folder_that_cannot_be_filled_is_not_left_behind(tmp_path):
    with pytest.raises(StorageError, match="No space"):
        with files.new_folder(tmp_path / "run"):
            (tmp_path / "run" / "scores").mkdir()
            raise files.storage_error(tmp_path, OSError(errno.ENOSPC, "full"))
    assert not list(tmp_path.iterdir())
    with files.new_folder(tmp_path / "run"):
        pass
    with pytest.raises(StorageError), files.new_folder(tmp_path / "run"):
        pass
    assert (tmp_path / "run").is_dir(), "one that was there before stays"


@pytest.mark.parametrize("kind", ["folder", "pipe", "socket", "link to nothing", "link to a file"])
def test_nothing_is_appended_to_what_is_no_regular_file(kind, tmp_path):
    path, readme = tmp_path / "log.txt", (ROOT / "README.md").read_bytes()
    files.append(path, b"one ")
    files.append(path, b"two")
    assert path.read_bytes() == b"one two"
    path.unlink()
    OTHER_KINDS[kind][0](path)
    with pytest.raises(StorageError, match="log.txt"):
        files.append(path, b"three")
    assert (ROOT / "README.md").read_bytes() == readme


# -- links


def test_nothing_is_written_through_a_linked_folder(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "a").symlink_to("b")
    with pytest.raises(StorageError, match="link"):
        files.write_bytes(tmp_path / "a" / "x", b"x")
    assert not list((tmp_path / "b").iterdir())
    with pytest.raises(StorageError, match="link"):
        files.make_folder(tmp_path / "a")


def test_deletions_follow_no_link_and_say_what_they_freed(tmp_path):
    run, other = tmp_path / "a", tmp_path / "b"
    for folder in (run / "validation" / "retrained", other / "retrained"):
        folder.mkdir(parents=True)
        (folder / "x").write_bytes(bytes(10))
    (run / "scores").mkdir()
    (run / "scores" / "link").symlink_to(other)
    (run / "trajectory").symlink_to(other)
    (run / "model").symlink_to(other / "retrained" / "x")
    for path in ("trajectory", "trajectory/retrained/x", "model", "scores/link/retrained", "../b", "."):
        with pytest.raises(StorageError, match="not touched"):
            files.remove_inside(run, run / path)
    assert (other / "retrained" / "x").exists()
    with pytest.raises(StorageError, match="trajectory is a link|link is a link|model is a link"):
        files.check_no_links(run)
    assert files.remove_inside(run, run / "validation") == 10
    assert files.remove_inside(run, run / "validation") == 0
    freed = files.remove_inside(tmp_path, run)  # a run that holds links can be deleted; what they lead to stays
    assert not run.exists() and (other / "retrained" / "x").exists() and freed < 100


def test_a_deletion_that_fails_says_so_and_what_it_freed_is_measured(tmp_path, monkeypatch):
    folder = tmp_path / "trajectory"
    folder.mkdir()
    for name in "abc":
        (folder / name).write_bytes(bytes(100))
    unlink = os.unlink

    def refuse(path, *args, **kwargs):
        if str(path).endswith("b"):
            raise PermissionError(errno.EACCES, "Permission denied")
        unlink(path, *args, **kwargs)

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(StorageError, match="trajectory"):
        files.remove_inside(tmp_path, folder)
    monkeypatch.undo()
    assert (folder / "b").exists()


def test_what_another_process_writes_meanwhile_is_not_counted_as_freed(tmp_path, monkeypatch):
    folder, rmtree = tmp_path / "trajectory", shutil.rmtree
    folder.mkdir()
    (folder / "a").write_bytes(bytes(100))

    def meanwhile(path):
        rmtree(path)
        path.mkdir()
        (path / "b").write_bytes(bytes(30))

    monkeypatch.setattr(shutil, "rmtree", meanwhile)
    assert files.remove_inside(tmp_path, folder) == 70


# -- sweeping


def test_a_sweep_finds_old_temporaries_at_any_depth_and_spares_the_young_and_the_linked(tmp_path):
    def temporary(relative: str, age: float) -> Path:
        path = tmp_path / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        for part in (path, path.parent):
            stamp = path.stat().st_mtime - age
            os.utime(part, (stamp, stamp))
        return path

    old = [temporary("run/validation/retrained/.tmp-a", 3600), temporary(".tmp-probe/step.safetensors", 3600)]
    young = [
        temporary("run/.tmp-b", 0),
        temporary(".tmp-probe2/full.safetensors", 0),
        temporary("elsewhere/.tmp-c", 3600),
        temporary("run/scores/loss-000.npy", 3600),
    ]
    outside = tmp_path / "swept"
    outside.mkdir()
    (tmp_path / "run").rename(outside / "run")
    for name in (".tmp-probe", ".tmp-probe2"):
        (tmp_path / name).rename(outside / name)
    (outside / "link").symlink_to(tmp_path / "elsewhere")
    (outside / ".tmp-link").symlink_to(tmp_path / "elsewhere")
    files.sweep(outside, recursive=False)
    assert (outside / "run/validation/retrained/.tmp-a").exists() and not (outside / ".tmp-probe").exists()
    files.sweep(outside)
    left = sorted(p.relative_to(outside).as_posix() for p in outside.rglob("*") if p.is_file())
    assert left == [".tmp-probe2/full.safetensors", "run/.tmp-b", "run/scores/loss-000.npy"]
    assert old and young[2].exists()
    files.sweep(outside, older_than=0)
    assert not (outside / "run/.tmp-b").exists() and not (outside / ".tmp-probe2").exists() and young[2].exists()


def test_a_server_that_starts_sweeps_the_folder_of_all_runs(tmp_path):
    """An estimate that was killed leaves a folder there, and so does a run that was being made."""
    for name in (f"{files.TEMPORARY}old", f"{files.TEMPORARY}young"):
        (tmp_path / name).mkdir()
    os.utime(tmp_path / f"{files.TEMPORARY}old", (0, 0))
    JobQueue(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [f"{files.TEMPORARY}young"]


def test_what_a_wrong_clock_left_in_the_future_is_swept_and_read_once(tmp_path, monkeypatch):
    later = time.time() + 1e6
    for name in (f"{files.TEMPORARY}left", "array"):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (later, later))
    files.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["array"]
    assert files.is_settled(int(later * 1e9)) and not files.is_settled(time.time_ns())


def test_a_file_that_changes_twice_in_one_tick_of_the_clock_is_hashed_twice(tmp_path, monkeypatch):
    """A fast machine changes a file in place, with the same size, before the file system's clock has ticked."""
    path = tmp_path / "array"
    path.write_bytes(b"one")
    stands = os.stat(path)
    monkeypatch.setattr(files.os, "stat", lambda *given, **more: stands)
    first = files.sha256_of(path)
    with path.open("r+b") as file:
        file.write(b"two")
    assert files.sha256_of(path) == hashlib.sha256(b"two").hexdigest() != first


def test_what_may_not_be_read_is_not_to_be_deleted(tmp_path, monkeypatch):
    def refused(path, *given, **more):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(files.os, "lstat", refused)
    with pytest.raises(IntegrityError, match="cannot be read") as error:
        files.read_json(tmp_path / "manifest.json", "Delete the run.")
    assert "Delete" not in error.value.remedy and "readable" in error.value.remedy


@pytest.mark.slow
def test_a_sweep_takes_no_file_from_under_a_writer(tmp_path):
    """Two threads: one writes, one sweeps; every write must end well."""
    done = threading.Event()

    def sweep():
        while not done.is_set():
            files.sweep(tmp_path)

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        for i in range(200):
            files.write_json(tmp_path / "notes.json", i)
    finally:
        done.set()
        sweeper.join()
    assert files.read_json(tmp_path / "notes.json", "") == 199


# -- tables


def test_text_that_a_spreadsheet_would_run_is_quoted():
    cells = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "plain", "a=b", "", "'=1", None, -1.5, 3]
    frame = pd.DataFrame({"=note": cells, "score": [-0.5] * len(cells)})
    safe = files.spreadsheet_safe(frame)
    assert list(safe.columns) == ["'=note", "score"] and safe["score"].tolist() == [-0.5] * len(cells)
    assert safe["'=note"].tolist()[:9] == ["'" + c for c in cells[:8]] + ["plain"]
    assert safe["'=note"].tolist()[9:] == ["a=b", "", "''=1", *cells[12:]] and frame["=note"].tolist() == cells
    plain = files.spreadsheet_plain(safe)
    assert list(plain.columns) == list(frame.columns) and plain["=note"].tolist() == cells
    assert files.spreadsheet_safe(pd.DataFrame({"c": pd.Categorical(["=a", "b"])}))["c"].tolist() == ["'=a", "b"]
