"""Writing so that a crash leaves the old file or the new one, and reading so that damage shows.

Every file is written under a temporary name in its own folder, synced and renamed. Failures of
the disk become `StorageError`s that name the file and the remedy.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import tempfile
from pathlib import Path

import numpy as np

from engine.errors import IntegrityError, StorageError

os.umask(UMASK := os.umask(0o022))      # it can only be read by setting it


@contextlib.contextmanager
def disk_errors(path: Path):
    """Turns the operating system's refusals to write at `path` into `StorageError`s."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageError(f"No space left to write {path}.",
                               "Free space in Runs and storage (checkpoints are the big part), or "
                               "set REPLAY_OUTPUTS_DIR to a larger disk.") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise StorageError(f"{path} cannot be written ({error.strerror}).",
                               "Make the outputs folder writable, or set REPLAY_OUTPUTS_DIR (or "
                               "--outputs) to a folder that is.") from error
        raise


def write_bytes(path: Path, content: bytes) -> str:
    """Writes atomically and returns the content's SHA-256."""
    with disk_errors(path):
        handle, temporary = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~UMASK)     # mkstemp makes files private; runs are for sharing
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
    return hashlib.sha256(content).hexdigest()


def write_json(path: Path, value) -> str:
    return write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path, remedy: str):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise IntegrityError(f"{path} is missing.", remedy) from error
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path} is damaged ({error}).", remedy) from error


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
            with contextlib.suppress(FileNotFoundError):   # deleted while we count
                total += os.lstat(os.path.join(folder, name)).st_size
    return total
