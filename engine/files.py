"""Files that are whole or absent, counted, and arrays that are verified against their checksums.

Every file is written under a temporary name in its own folder, synced and renamed. Failures of
the disk become `StorageError`s that name the file and the remedy. `Room` waits for space instead,
so that a long run outlives a full disk. Whatever changes the disk passes `check_writable`, which in
read-only mode lets nothing pass.
"""

import contextlib
import errno
import functools
import hashlib
import io
import json
import os
import tempfile
from pathlib import Path

import numpy as np

from engine.errors import IntegrityError, ReadOnlyError, StorageError

os.umask(UMASK := os.umask(0o022))  # it can only be read by setting it

TEMPORARY = ".tmp-"


class Traffic:
    """Bytes that this process has written to and read from the files of runs, for the meters."""

    def __init__(self):
        self.written = self.read = 0


traffic = Traffic()


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


@contextlib.contextmanager
def disk_errors(path: Path):
    """Around what writes at `path`: turns the operating system's refusals into `StorageError`s, and refuses
    in read-only mode."""
    check_writable(path)
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageError(
                f"No space left to write {path}.",
                "Free space in Runs and storage (checkpoints are the big part), or "
                "set REPLAY_OUTPUTS_DIR to a larger disk.",
                passing=error.errno != errno.EFBIG,
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise StorageError(
                f"{path} cannot be written ({error.strerror}).",
                "Make the outputs folder writable, or set REPLAY_OUTPUTS_DIR (or --outputs) to a folder that is.",
            ) from error
        raise


def write_bytes(path: Path, content: bytes) -> str:
    """Writes atomically and returns the content's SHA-256."""
    with disk_errors(path):
        handle, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~UMASK)  # mkstemp makes files private; runs are for sharing
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    traffic.written += len(content)
    return hashlib.sha256(content).hexdigest()


def sweep(folder: Path) -> None:
    """Deletes the temporary files that a killed process left in a folder and those right below."""
    check_writable(folder)
    for pattern in (f"{TEMPORARY}*", f"*/{TEMPORARY}*"):
        for path in folder.glob(pattern):
            if path.is_file() and not path.parent.is_symlink():
                path.unlink(missing_ok=True)


def write_json(path: Path, value) -> str:
    return write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path, remedy: str, sha256: str | None = None):
    """The value; where `sha256` is given, the file must match it."""
    try:
        content = path.read_bytes()
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise IntegrityError(f"{path} has changed since it was written.", remedy)
        return json.loads(content.decode("utf-8"))
    except FileNotFoundError as error:
        raise IntegrityError(f"{path} is missing.", remedy) from error
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path} is damaged ({error}).", remedy) from error


def json_digest(value) -> str:
    """SHA-256 of a JSON value, however it is laid out."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_npy(path: Path, array: np.ndarray) -> str:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return write_bytes(path, buffer.getvalue())


def read_npy(path: Path, sha256: str | None, remedy: str) -> np.ndarray:
    """The array, memory-mapped read-only; where `sha256` is given, the file must match it."""
    try:
        if sha256 is not None and sha256_of(path) != sha256:
            raise IntegrityError(f"{path} has changed since it was written.", remedy)
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise IntegrityError(f"{path} is missing.", remedy) from error
    except (OSError, ValueError, EOFError) as error:
        raise IntegrityError(f"{path} is damaged ({error}).", remedy) from error


def sha256_of(path: Path) -> str:
    """Read again only where the file is another, or has changed since: pages ask at every click."""
    told = path.stat()
    return _sha256(path, told.st_ino, told.st_size, told.st_ctime_ns)


@functools.lru_cache(maxsize=1024)
def _sha256(path: Path, *identity: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all regular files below a folder; links are not followed."""
    if path.is_symlink() or not path.exists():
        return 0
    if path.is_file():
        return path.stat().st_size
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # deleted while we count
                total += os.lstat(os.path.join(folder, name)).st_size
    return total
