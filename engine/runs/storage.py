"""What a run takes on the disk, cleaning it and deleting it. Links are never followed and never replaced."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from engine import files
from engine.errors import ConfigError, ReplayError, RunNotFoundError, StorageError
from engine.runs.lock import RunLock
from engine.runs.manifest import TrajectoryRecord

if TYPE_CHECKING:
    from engine.runs.run import Run

FOLDERS = ("trajectory", "scores", "validation", "model", "features", "duplicates")

LOGS = ("events.jsonl", "log.txt")

ASKED = ("exports",)  # folders of what somebody asked for: made when something is written there

PARTS = (*FOLDERS, *ASKED, "logs", "other")  # what `sizes` tells apart

CLEANABLE = ("trajectory", "scores", "validation", "features", "duplicates", *ASKED, "logs")

DELETED = ".deleted-"  # before the id of a run whose folder is on its way out


def refuse_link(path: Path) -> None:
    """Raises `StorageError` where `path` is a link: deleting or replacing what is behind it could hit another run."""
    if path.is_symlink():
        raise StorageError(f"{path} is a link, and links are not followed.", "Remove it by hand.")


def size_of(folder: Path) -> int:
    """Bytes of all regular files in a folder and below, looked at anew; links are not followed, 0 where it is gone."""
    total, folders = _look(str(folder))
    return total + sum(size_of(folder / name) for name in folders)


def _look(folder: str) -> tuple[int, tuple[str, ...]]:
    """Bytes of the regular files right in a folder, and the names of the folders in it."""
    total, folders = 0, []
    # Deleted while we count, or not to be looked into: what can be counted is.
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                elif entry.is_file(follow_symlinks=False):
                    total += entry.stat(follow_symlinks=False).st_size
    return total, tuple(folders)


@lru_cache(maxsize=1 << 16)
def _looked(folder: str, *identity: int) -> tuple[int, tuple[str, ...]]:
    return _look(folder)


def _known_size(folder: str) -> int:
    """`size_of`, which looks again only into folders that something was added to or removed from since: the files of
    a run are written under another name and renamed, and that changes the folder's time."""
    try:
        status = os.lstat(folder)
    except OSError:
        return 0
    if files.is_settled(status.st_mtime_ns):
        total, folders = _looked(folder, status.st_dev, status.st_ino, status.st_mtime_ns)
    else:
        total, folders = _look(folder)
    return total + sum(_known_size(os.path.join(folder, name)) for name in folders)


class Storage:
    """The disk that one run takes. Cleaning and deleting hold the run, and refuse links."""

    def __init__(self, run: "Run"):
        self._run = run
        self._path, self._doomed = run.path, run.root / f"{DELETED}{run.id}"

    def sizes(self) -> dict[str, int]:
        """Bytes by part, in the order of `PARTS`. Of a half-deleted run: what is left of it."""
        sizes: dict[str, int] = dict.fromkeys(PARTS, 0)
        folder = self._path if self._path.is_dir() or not self._doomed.is_dir() else self._doomed
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                part = entry.name if entry.name in (*FOLDERS, *ASKED) else "logs" if entry.name in LOGS else "other"
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False):
                        sizes[part] += _known_size(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        sizes[part] += entry.stat(follow_symlinks=False).st_size
        return sizes

    def clean(self, parts: tuple[str, ...], dry_run: bool = False) -> int:
        """Deletes the content of some parts of `CLEANABLE` and returns the bytes freed (or to be freed).

        Raises `StorageError` where something could not be deleted; what could be is gone then.
        """
        for part in parts:
            if part not in CLEANABLE:
                raise ConfigError(f"«{part}» cannot be cleaned.", f"Choose of {', '.join(CLEANABLE)}.")
        if dry_run:
            return sum(self._size(part) for part in parts)
        with self._run.lock():
            return self.clean_held(parts)

    def clean_held(self, parts: tuple[str, ...]) -> int:
        """`clean`, for a caller who holds the run."""
        files.check_writable(self._path)
        for part in parts:
            for path in self._paths(part):
                refuse_link(path)
        before = sum(self._size(part) for part in parts)
        manifest = self._run.manifest()
        changes: dict = {"files": {f: sha for f, sha in manifest.files.items() if f.split("/")[0] not in parts}}
        if "trajectory" in parts:
            kept = manifest.trajectory
            changes["trajectory"] = TrajectoryRecord(None, kept.every, kept.steps)
        if "scores" in parts:
            changes |= {"scored": False, "targets_scored": 0}
        self._run.update_manifest(**changes)  # first: what is half gone must not stand recorded as whole
        left: list[OSError] = []
        for part in parts:
            for path in self._paths(part):
                _remove(path, left)
                if part in FOLDERS:
                    with files.disk_errors(path):
                        path.mkdir(exist_ok=True)
        freed = before - sum(self._size(part) for part in parts)
        self._run.update_manifest(sizes=self.sizes())
        self._run.events_log.append("cleaned", parts=list(parts), bytes=freed)
        if left:
            raise StorageError(
                f"{left[0].filename} cannot be deleted ({left[0].strerror}); {freed:,} bytes were freed.",
                "Make it deletable, then clean the run again.",
            )
        return freed

    def _paths(self, part: str) -> list[Path]:
        return [self._path / name for name in (LOGS if part == "logs" else (part,))]

    def _size(self, part: str) -> int:
        return sum(size_of(path) if path.is_dir() else files.size_of(path) for path in self._paths(part))

    def check_there(self) -> None:
        """Raises `RunNotFoundError` where there is nothing to delete, `StorageError` where a link stands for it."""
        refuse_link(self._path)
        refuse_link(self._doomed)
        if not self._path.is_dir() and not self._doomed.is_dir():
            raise RunNotFoundError(
                f"There is no run {self._run.id} in {self._run.root}.",
                "It may have been deleted; `python -m engine list` names the runs.",
            )

    def delete(self, dry_run: bool = False) -> int:
        """Deletes the whole folder and returns the bytes freed (or to be freed), also of a damaged run and of one
        whose deletion stopped half-way.

        Raises `StorageError` where something could not be deleted: the run is then listed as half-deleted.
        """
        self.check_there()
        there, half = self._path.is_dir(), self._doomed.is_dir()
        if dry_run:
            return size_of(self._path) + size_of(self._doomed)
        files.check_writable(self._path)
        freed = finish_deletion(self._doomed, self._run.id) if half else 0
        if there:
            with self._held():
                with files.disk_errors(self._path):
                    # Out of the way first, so that no page takes a half-deleted run for a whole one.
                    self._path.rename(self._doomed)
                freed += _delete_tree(self._doomed, self._run.id)
        return freed

    def _held(self) -> contextlib.AbstractContextManager:
        lock = self._path / ".lock"
        # What is no regular file cannot be held by anybody: it came with a damaged run.
        damaged = lock.is_symlink() or (lock.exists() and not lock.is_file())
        return contextlib.nullcontext() if damaged else self._run.lock()


def _remove(path: Path, left: list[OSError]) -> None:
    """Deletes a file or a folder with all in it; adds to `left` what cannot be. Links go, not what they lead to."""

    def refused(act, name, info) -> None:
        if not isinstance(info[1], FileNotFoundError):  # another process may be deleting it too
            left.append(info[1])

    if path.is_symlink() or not path.is_dir():
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            left.append(error)
    else:
        shutil.rmtree(path, onerror=refused)


def _delete_tree(doomed: Path, run_id: str) -> int:
    """Deletes what is left of a run and returns the bytes freed; the lock goes last, for it keeps others away."""
    before, left = size_of(doomed), []
    try:
        names = sorted(os.listdir(doomed), key=lambda name: name == ".lock")
    except FileNotFoundError:
        return 0
    except OSError as error:
        names, left = [], [error]
    for name in names:
        if name != ".lock" or not left:
            _remove(doomed / name, left)
    if not left:
        try:
            doomed.rmdir()
        except FileNotFoundError:
            pass
        except OSError as error:
            left.append(error)
    if left:
        raise StorageError(
            f"Run {run_id} is half-deleted: {left[0].filename} cannot be deleted ({left[0].strerror}); "
            f"{before - size_of(doomed):,} bytes were freed.",
            "Make it deletable; the next look at the runs, or deleting it again, finishes the deletion.",
        )
    return before


def finish_deletion(doomed: Path, run_id: str) -> int:
    """Finishes a deletion that stopped half-way and returns the bytes freed. Raises `StorageError` where that cannot
    be, `RunBusyError` while another process is at it."""
    files.check_writable(doomed)
    refuse_link(doomed)
    lock = doomed / ".lock"
    if lock.is_symlink() or not lock.is_file():
        return _delete_tree(doomed, run_id)
    handle = RunLock(doomed, run_id).acquire(create=False)
    try:
        return _delete_tree(doomed, run_id)
    finally:
        os.close(handle)


def half_deleted(root: Path, run_ids: re.Pattern) -> Iterator[tuple[str, Path]]:
    """Ids and folders of runs whose deletion began and did not end, or is under way."""
    for path in sorted(root.glob(f"{DELETED}*")):
        run_id = path.name.removeprefix(DELETED)
        if run_ids.fullmatch(run_id) and path.is_dir() and not path.is_symlink():
            yield run_id, path


def sweep(root: Path, run_ids: re.Pattern) -> dict[str, str]:
    """Finishes the deletions that stopped half-way; of each that cannot be finished, its run's id and the reason."""
    reasons = {}
    for run_id, doomed in half_deleted(root, run_ids):
        try:
            finish_deletion(doomed, run_id)
        except ReplayError as error:
            reasons[run_id] = error.what
        except OSError as error:
            if error.errno != errno.ENOENT:
                reasons[run_id] = f"Run {run_id} is half-deleted: {error.filename} ({error.strerror})."
    return reasons
