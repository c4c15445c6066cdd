"""Files that are whole or absent, readers that nothing can surprise, deletions that follow no link.

Writing. Every file is written under a temporary name in its own folder, synced and renamed. What the
operating system refuses becomes a `StorageError` that names the file and the remedy (`disk_errors`);
`engine.space.DiskSpace` waits for space instead, so that a long run outlives a full disk. Whatever changes
the disk passes `check_writable`, which in read-only mode lets nothing pass.

Reading. A run's folder may have been copied, edited, damaged or sent by someone else. `open_regular` is the
one way into its files: regular files only (no folder, pipe, device, socket or link), at most so many bytes;
`read_json` adds strict UTF-8, finite numbers and a limit on nesting, `read_npy` a header that fits the file.
What is wrong is an `IntegrityError` with the path and the remedy, never the operating system's own error.

Deleting. `remove_inside` deletes below a folder, refuses where a link leads out of it, and measures what
was freed afterwards.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import io
import json
import math
import os
import re
import secrets
import shutil
import stat
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import ConfigError, IntegrityError, ReadOnlyError, StorageError

if TYPE_CHECKING:
    import pandas as pd

TEMPORARY = ".tmp-"

SETTLED = 2.0  # seconds; clocks of file systems tick every 4 ms, some every two seconds

SWEEP_AFTER = 600.0  # seconds: an older temporary file was left by a process that died; a younger one may be in use

MOST_BYTES = 64 << 20  # of a JSON file, or of what is read of a log at once: a hundred times what a long run writes

MOST_BYTES_OF_ARRAYS = 16 << 30  # of a file that is mapped or hashed: scores of 1,000 targets × 4 million images

MOST_NESTED = 32  # lists and objects inside one another in JSON; runs write five

# Apostrophes in front are those that `spreadsheet_safe` would put there; the last four are full-width forms.
SPREADSHEET_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


class IOCounters:
    """Bytes that this process has written to and read from the files of runs, for the meters."""

    def __init__(self) -> None:
        self.written = self.read = 0
        self._mutex = threading.Lock()  # the writer's and the reader's threads count at once

    def add(self, written: int = 0, read: int = 0) -> None:
        with self._mutex:
            self.written += written
            self.read += read


io_counters = IOCounters()


# -- what may be written, and what the system refuses


def read_only() -> bool:
    """Whether REPLAY_READ_ONLY asks that runs be shown, and nothing started, deleted or written."""
    return os.environ.get("REPLAY_READ_ONLY", "").strip().lower() not in ("", "0", "false", "no")


def check_writable(path: Path) -> None:
    """Raises `ReadOnlyError` in read-only mode."""
    if read_only():
        raise ReadOnlyError(
            f"{path} is not written: REPLAY_READ_ONLY is set, so nothing is started, deleted or written.",
            "Start the app or the command without REPLAY_READ_ONLY to change runs.",
        )


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

UNSUPPORTED = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL, errno.ENOTTY)

ELSEWHERE = "set REPLAY_OUTPUTS_DIR (or --outputs) to a folder"


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Around what writes, locks or deletes at `path`: every refusal of the operating system becomes a
    `StorageError`, `passing` where the disk is full; in read-only mode all is refused."""
    check_writable(path)
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error


def storage_error(path: Path, error: OSError) -> StorageError:
    """What the operating system refused at `path`, in a sentence with its remedy."""
    said = error.strerror or type(error).__name__
    if error.errno in FULL:
        return StorageError(
            f"No space left to write {path}.",
            f"Free space in Runs and storage (checkpoints are the big part), or {ELSEWHERE} on a larger disk.",
            passing=error.errno != errno.EFBIG,
        )
    if error.errno in UNSUPPORTED:
        return StorageError(
            f"The file system of {path} cannot do what runs need: locks, renaming, syncing ({said}).",
            f"{ELSEWHERE[0].upper()}{ELSEWHERE[1:]} on a local disk; network folders often have no locks.",
        )
    if error.errno in (errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.ETIMEDOUT, errno.EREMOTEIO):
        return StorageError(
            f"The disk of {path} failed ({said}).",
            f"Look at the disk or its mount and try again, or {ELSEWHERE} on another disk.",
        )
    if error.errno == errno.ELOOP:
        return StorageError(f"{path} is a link, or is reached through one: links are not followed.", REMOVE_LINK)
    if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST):
        return StorageError(
            f"{path} cannot be written: something else stands in its place ({said}).", "Move that away by hand."
        )
    if error.errno == errno.ENOENT:
        return StorageError(
            f"{path} cannot be written: its folder is gone ({said}).", "Reload: the run may have been deleted."
        )
    return StorageError(f"{path} cannot be written ({said}).", f"Make the folder writable, or {ELSEWHERE} that is.")


REMOVE_LINK = "Remove the link by hand, or put the real folder in its place."


# -- writing


def write_bytes(path: Path, content: bytes) -> str:
    """Writes atomically and returns the content's SHA-256."""
    replace(path, content)
    return hashlib.sha256(content).hexdigest()


def replace(path: Path, content: bytes) -> None:
    """Writes atomically: `path` holds all of `content`, or what it held before, whenever the process or the
    machine dies. A folder that is a link is refused, so that no other folder's files are replaced.

    The file gets the mode that the process's umask gives to new files: runs are for sharing.
    """
    with _replacing(path) as file:
        file.write(content)
    io_counters.add(written=len(content))


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[io.BufferedWriter]:
    """See `replace`: what is written to the file is there whole once the block has ended well, and else not at all."""
    with disk_errors(path), _opened_folder(path.parent) as folder:
        temporary = f"{TEMPORARY}{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(temporary, flags, 0o666, dir_fd=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                _sync(file.fileno())
            os.replace(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise
        _sync(folder)


@contextlib.contextmanager
def _opened_folder(folder: Path) -> Iterator[int]:
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError as error:  # what Linux says of a link here
        raise OSError(errno.ELOOP if folder.is_symlink() else errno.ENOTDIR, error.strerror) from error
    try:
        yield handle
    finally:
        os.close(handle)


def _sync(handle: int) -> None:
    """Some file systems cannot sync (folders, above all). A process that dies loses nothing by that, only a
    machine that does, and what is then missing is found by its checksum. Any other refusal is an error."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def append(path: Path, content: bytes, end: int | None = None) -> None:
    """Adds to the end of a file, which is made where it is missing; see `open_to_append`. With `end`, where what was
    written whole ends: anything behind it, which a writer that died has left, is cut off first, and what is added is
    on the disk afterwards."""
    with disk_errors(path), os.fdopen(open_to_append(path), "ab") as file:
        if end is not None and os.fstat(file.fileno()).st_size > end:
            os.ftruncate(file.fileno(), end)
        file.write(content)
        if end is not None:
            file.flush()
            _sync(file.fileno())
    io_counters.add(written=len(content))


def open_to_append(path: Path) -> int:
    """A handle for reading, and for writing at the end; the file is made where it is missing. Nothing but a regular
    file is opened: a link could lead into another run, and opening a pipe waits for a reader. A file that stands in
    another folder too, as after a backup by hard links (`cp -al`), gets a copy of its own first."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(path, flags, 0o666)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EISDIR, "no regular file")
        if status.st_nlink <= 1:
            return handle
        content = os.pread(handle, status.st_size, 0)
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    replace(path, content)
    return os.open(path, flags, 0o666)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Makes a folder that is filled or absent: where filling it fails, it is deleted again."""
    with disk_errors(path):
        path.mkdir()
    try:
        yield path
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)  # the first error says more than this one's would
        raise


def expanded(text: str) -> str:
    """A path with ~ and ~name as the home folders that they stand for. `StorageError` where there is no such person:
    a folder that is called ~name is not what anybody wants."""
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise StorageError(f"{text!r} names a home folder that there is not.", "Write the folder's whole path.")
    return path


def make_folder(path: Path) -> None:
    """Makes a folder where it is missing: git, rsync and zip drop empty ones. The one above it must be there, so
    that a run that was deleted meanwhile does not come back as an empty shell."""
    with disk_errors(path):
        if path.is_symlink():
            raise OSError(errno.ELOOP, "a link")
        path.mkdir(exist_ok=True)


def write_json(path: Path, value: Any) -> str:
    """Writes atomically and returns the file's SHA-256. `ConfigError` for what `read_json` would refuse."""
    try:
        content = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:  # not finite, or half of a surrogate pair
        raise ConfigError(
            f"{path} cannot hold this ({error}).", "Give finite numbers, and text that is whole Unicode characters."
        ) from error
    return write_bytes(path, content + b"\n")


def json_digest(value: Any) -> str:
    """SHA-256 of a JSON value, however it is laid out."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_npy(path: Path, array: np.ndarray) -> str:
    """Writes atomically and returns the file's SHA-256."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return write_bytes(path, buffer.getvalue())


def write_npy_rows(path: Path, shape: tuple[int, ...], dtype: type, blocks: Iterable[np.ndarray]) -> str:
    """Writes an array of this shape atomically, some of its rows at a time, and returns the file's SHA-256: for arrays
    that are not to stand in memory whole. The blocks must have as many rows in all as the shape says."""
    layout = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, layout)
    digest, rows = hashlib.sha256(header.getvalue()), 0
    with _replacing(path) as file:
        file.write(header.getvalue())
        for block in blocks:
            content = np.asarray(block, dtype, order="C")
            if content.shape[1:] != shape[1:]:
                raise ValueError(f"a block of shape {content.shape} is no part of one of shape {shape}")
            digest.update(content.data)
            file.write(content.data)
            rows += len(content)
        if rows != shape[0]:
            raise ValueError(f"{rows} rows were given, of {shape[0]}")
    io_counters.add(written=header.tell() + math.prod(shape) * np.dtype(dtype).itemsize)
    return digest.hexdigest()


# -- reading


def open_regular(path: Path, remedy: str, limit: int = MOST_BYTES_OF_ARRAYS) -> io.BufferedReader:
    """Opens a regular file of at most `limit` bytes for reading; `IntegrityError` for anything else.

    Looks before it opens, since opening a device can act on it, and at what was opened, since it may have
    been exchanged in between. A pipe without a writer is refused, not waited for.
    """
    try:
        _check_regular(path, os.lstat(path), remedy, limit)
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            _check_regular(path, os.fstat(handle), remedy, limit)
            return os.fdopen(handle, "rb")
        except BaseException:
            os.close(handle)
            raise
    except OSError as error:
        raise _read_error(path, error, remedy) from error
    except ValueError as error:  # a name with a zero byte
        raise IntegrityError(f"{str(path)!r} is no name of a file ({error}).", remedy) from error


def _check_regular(path: Path, status: os.stat_result, remedy: str, limit: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        kinds = {
            stat.S_IFDIR: "a folder",
            stat.S_IFLNK: "a link",
            stat.S_IFIFO: "a pipe",
            stat.S_IFSOCK: "a socket",
        }
        kind = kinds.get(stat.S_IFMT(status.st_mode), "a device")
        raise IntegrityError(f"{path} is damaged: {kind} stands in its place.", remedy)
    if status.st_size > limit:
        raise IntegrityError(f"{path} is damaged: {status.st_size:,} bytes, where {limit:,} are the most.", remedy)


def _read_error(path: Path, error: OSError, remedy: str) -> IntegrityError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return IntegrityError(f"{path} is missing.", remedy)
    if error.errno == errno.ELOOP:
        return IntegrityError(f"{path} is damaged: a link stands in its place.", remedy)
    if error.errno in (errno.EACCES, errno.EPERM):  # nothing is lost: nobody should delete it for that
        remedy = "Make it, and the folders that it is in, readable for whoever runs this."
    return IntegrityError(f"{path} cannot be read ({error.strerror or type(error).__name__}).", remedy)


def read_bytes(path: Path, remedy: str, limit: int = MOST_BYTES) -> bytes:
    """All of a regular file of at most `limit` bytes."""
    with open_regular(path, remedy, limit) as file:
        try:
            content = file.read(limit + 1)
        except OSError as error:
            raise _read_error(path, error, remedy) from error
    if len(content) > limit:  # it grows while we read
        raise IntegrityError(f"{path} is damaged: it has more than {limit:,} bytes.", remedy)
    return content


def read_json(path: Path, remedy: str, sha256: str | None = None, limit: int = MOST_BYTES, finite: bool = True) -> Any:
    """The value; where `sha256` is given, the file must match it. `finite`: NaN and infinity are damage."""
    content = read_bytes(path, remedy, limit)
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise IntegrityError(f"{path} has changed since it was written.", remedy)
    return parse_json(content, str(path), remedy, finite)


def parse_json(content: bytes, where: str, remedy: str, finite: bool = True) -> Any:
    """The value of a JSON text in strict UTF-8, with (`finite`) finite numbers, whole characters and at most
    `MOST_NESTED` lists and objects inside one another. `where` names it in the `IntegrityError`."""
    number = _finite if finite else float
    try:
        text = content.decode("utf-8")
        value = json.loads(text, parse_constant=number, parse_float=number)
        if "\\u" in text:  # an escape may name half of a surrogate pair, which no file or page can hold
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError, MemoryError) as error:
        said = "nested too deeply" if isinstance(error, RecursionError) else str(error) or type(error).__name__
        raise IntegrityError(f"{where} is damaged ({said}).", remedy) from error
    level = [value]
    for _ in range(MOST_NESTED):
        level = [
            child
            for container in level
            if isinstance(container, (dict, list))
            for child in (container.values() if isinstance(container, dict) else container)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return value
    raise IntegrityError(f"{where} is damaged (nested too deeply).", remedy)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def read_tail(path: Path, remedy: str, size: int) -> bytes:
    """The last `size` bytes of a regular file, or all of a smaller one."""
    with open_regular(path, remedy, 1 << 62) as file:
        try:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return file.read(size)
        except OSError as error:
            raise _read_error(path, error, remedy) from error


def read_npy(path: Path, sha256: str | None, remedy: str) -> np.ndarray:
    """The array, memory-mapped read-only; where `sha256` is given, the file must match it. Callers share one map."""
    with open_regular(path, remedy) as file:
        try:
            shape, fortran, dtype = _npy_header(file)
            offset, size = file.tell(), math.prod(shape) * dtype.itemsize
            if offset + size != os.fstat(file.fileno()).st_size:
                raise ValueError(f"its header says {offset + size:,} bytes")
            if sha256 is not None and sha256_of(path, remedy) != sha256:
                raise IntegrityError(f"{path} has changed since it was written.", remedy)
            order = "F" if fortran else "C"
            if size == 0:  # the system maps no empty file
                return np.empty(shape, dtype, order)
            status = os.fstat(file.fileno())
            with _maps_lock:
                identity = status.st_dev, status.st_ino, offset, shape, dtype.str, order
                known = _maps.get(identity)
                if known is None:
                    known = _maps[identity] = np.memmap(file, dtype, "r", offset, shape, order)
            return known
        except OSError as error:
            raise _read_error(path, error, remedy) from error
        except (ValueError, TypeError, OverflowError) as error:
            raise IntegrityError(f"{path} is damaged ({error}).", remedy) from error


# While anybody holds them, which keeps their inodes from being given to other files. A page shares the maps of the page
# before it: each map of a file counts as memory of its own, and its pages would have to be found once more.
_maps: weakref.WeakValueDictionary[tuple, np.ndarray] = weakref.WeakValueDictionary()

_maps_lock = threading.Lock()


def _npy_header(file: io.BufferedReader) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"npy version {version}")
    try:
        shape, fortran, dtype = read(file)
    except Exception as error:  # a header is a Python literal, and its parser has many kinds of errors
        raise ValueError(f"its header cannot be read: {error}") from error
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if min(shape, default=0) < 0:
        raise ValueError(f"its shape is {shape}")
    return shape, fortran, dtype


def sha256_of(path: Path, remedy: str = "Restore the file, or delete what it belongs to.") -> str:
    """Read again only where the file is another, or has changed since: pages ask at every click."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except OSError as error:
        raise _read_error(path, error, remedy) from error
    if not is_settled(status.st_ctime_ns):
        return _sha256.__wrapped__(path, remedy)
    return _sha256(path, remedy, status.st_ino, status.st_size, status.st_ctime_ns)


def is_settled(changed_ns: int) -> bool:
    """Whether a file that was changed at this time (ns since 1970) would bear another one if it were changed again.
    The clock may have been set back since: what changed in the future is settled, too."""
    return abs(time.time_ns() - changed_ns) >= SETTLED * 1e9


def settled_identity(path: str | Path) -> tuple[int, ...] | None:
    """What tells a file as it is from what it may become, for caches of what was read; None where it was changed so
    lately that the next change could bear the same time. Raises `OSError`."""
    status = os.lstat(path)
    if not is_settled(status.st_mtime_ns):
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@functools.lru_cache(maxsize=1024)
def _sha256(path: Path, remedy: str, *identity: int) -> str:
    with open_regular(path, remedy) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _read_error(path, error, remedy) from error


def size_of(path: Path) -> int:
    """Bytes of a regular file, or of all those below a folder; links are not followed. What cannot be looked at, or is
    deleted while we count, is not counted."""
    try:
        status = os.lstat(path)
    except OSError:
        return 0
    if not stat.S_ISDIR(status.st_mode):
        return status.st_size if stat.S_ISREG(status.st_mode) else 0
    total, folders = 0, [os.fspath(path)]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        total += entry.stat(follow_symlinks=False).st_size
    return total


# -- deleting


def is_inside(root: Path, path: Path) -> bool:
    """Whether `path` stands below `root` by its name, and nothing on the way from one to the other, both
    included, is a link. What does not exist is no link."""
    try:
        parts = path.relative_to(root).parts
    except ValueError:
        return False
    if not parts or ".." in parts:
        return False
    steps = [root, *(root.joinpath(*parts[: i + 1]) for i in range(len(parts)))]
    return not any(step.is_symlink() for step in steps)


def check_inside(root: Path, path: Path) -> None:
    """Raises `StorageError` where `is_inside` says no: before anything is deleted or replaced at `path`."""
    if not is_inside(root, path):
        raise StorageError(
            f"{path} is not touched: it is a link, or is reached through one, or is outside {root}.", REMOVE_LINK
        )


def check_no_links(folder: Path) -> None:
    """Raises `StorageError` where the folder, or a folder or file anywhere below it, is a link: for what is
    about to write there. A link could lead into another run."""
    folders = [os.fspath(folder)]
    if os.path.islink(folder):
        raise StorageError(f"{folder} is a link, and links are not followed.", REMOVE_LINK)
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:  # deleted while we look, perhaps
            for entry in entries:
                if entry.is_symlink():
                    raise StorageError(f"{entry.path} is a link, and links are not followed.", REMOVE_LINK)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)


def remove_inside(root: Path, path: Path) -> int:
    """Deletes a file, or a folder with all that it holds, below `root`. Returns the bytes freed, measured
    afterwards; what is not there frees none.

    Links are not followed: one on the way to `path`, or `path` itself, is refused (`check_inside`), one below
    it is deleted as the link it is. `StorageError` where something could not be deleted.
    """
    check_inside(root, path)
    before = size_of(path)
    with disk_errors(path), contextlib.suppress(FileNotFoundError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return before - size_of(path)


def sweep(folder: Path, older_than: float = SWEEP_AFTER, recursive: bool = True) -> None:
    """Deletes the temporary files and folders that killed processes left in a folder, and (`recursive`) anywhere
    below it; those that changed within the last `older_than` seconds may belong to a living process and stay.
    Links are not followed."""
    check_writable(folder)
    now = time.time()
    folders = [] if os.path.islink(folder) else [os.fspath(folder)]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:  # another sweep may be faster
            for entry in entries:
                is_folder = entry.is_dir(follow_symlinks=False)
                if entry.name.startswith(TEMPORARY) and not entry.is_symlink():
                    if abs(now - _last_change(entry)) >= older_than:  # or in the future, of a clock that was wrong
                        with contextlib.suppress(OSError):
                            shutil.rmtree(entry.path) if is_folder else os.unlink(entry.path)
                elif is_folder and recursive:
                    folders.append(entry.path)


def _last_change(entry: os.DirEntry[str]) -> float:
    """Of a file, or of anything below a folder; seconds since 1970."""
    changes = [entry.stat(follow_symlinks=False).st_mtime]
    if entry.is_dir(follow_symlinks=False):
        for name, _, names in os.walk(entry.path):
            for inner in (name, *(os.path.join(name, n) for n in names)):
                with contextlib.suppress(OSError):
                    changes.append(os.lstat(inner).st_mtime)
    return max(changes)


# -- tables


def spreadsheet_safe(frame: pd.DataFrame) -> pd.DataFrame:
    """A copy for a CSV file that a spreadsheet may open: text that would be taken for a formula (it begins with
    = + - @, a tab or a line end) gets an apostrophe in front, in cells and in column names. Numbers stay. Text that
    begins with apostrophes and then such a sign gets one more, so that `spreadsheet_plain` gives all of it back."""

    def quoted(cell: Any) -> Any:
        return f"'{cell}" if isinstance(cell, str) and SPREADSHEET_FORMULA.match(cell) else cell

    return _mapped(frame, quoted)


def spreadsheet_plain(frame: pd.DataFrame) -> pd.DataFrame:
    """The inverse of `spreadsheet_safe`, of a table that was read from such a file."""

    def unquoted(cell: Any) -> Any:
        quoted = isinstance(cell, str) and cell.startswith("'") and SPREADSHEET_FORMULA.match(cell)
        return cell[1:] if quoted else cell

    return _mapped(frame, unquoted)


def _mapped(frame: pd.DataFrame, change: Any) -> pd.DataFrame:
    """Every text through `change`; columns of numbers, which may have millions of cells, are not looked into."""
    mapped = frame.copy(deep=False)
    for k, dtype in enumerate(frame.dtypes):
        if not isinstance(dtype, np.dtype) or dtype.kind not in "biufc":
            mapped.isetitem(k, frame.iloc[:, k].map(change))
    return mapped.rename(columns=change)
