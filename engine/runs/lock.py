"""Who works on a run, or writes one of its files: a lock that the system lets go of when its holder dies.

`flock` on a file of its own, so that it holds between processes and between threads alike. Looking takes it
shared for a moment, which never makes another's look fail; whoever wants it whole tries again for as long as
nobody but such lookers has it.
"""

import contextlib
import errno
import fcntl
import os
import random
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from engine import files
from engine.errors import RunBusyError, StorageError

PATIENCE = 0.2  # seconds for which a holder may still be on its way out: «finished» is written a moment before

LOOKING = 5.0  # seconds at most to wait while nobody holds the lock and others look at it

PAUSE = 0.001, 0.004  # seconds between tries, at random, so that two who try do not stay in step

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class FileLock:
    """An exclusive lock on a file made for it. `busy`: what and remedy of the `RunBusyError` where it is held."""

    def __init__(self, path: Path, busy: tuple[str, str], patience: float = PATIENCE):
        self.path, self.busy, self.patience = path, busy, patience

    def acquire(self, create: bool = True, shared: bool = False) -> int:
        """Takes the lock and returns the handle whose closing (`os.close`) lets go of it. `create`: makes its file
        where there is none. `shared`: together with others who take it so, and with nobody who wants it whole.

        Raises `RunBusyError` where another holds it for `patience` seconds, `StorageError` where the file system
        has no locks or the file is no regular one, `ReadOnlyError` in read-only mode.
        """
        with files.disk_errors(self.path):
            handle = self._open(os.O_RDWR | (os.O_CREAT if create else 0))
        try:
            began = time.monotonic()
            while not self._try(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
                waited = time.monotonic() - began
                only_looked_at = self._try(handle, fcntl.LOCK_SH)
                if waited > (LOOKING if only_looked_at else self.patience):
                    raise RunBusyError(*self.busy)
                fcntl.flock(handle, fcntl.LOCK_UN)
                time.sleep(random.uniform(*PAUSE))
        except BaseException:
            os.close(handle)
            raise
        return handle

    def is_held(self) -> bool:
        """Whether somebody holds it now; False where none was made yet, or there can be none."""
        try:
            handle = self._open(os.O_RDONLY)
        except (OSError, StorageError):  # what cannot be opened is named by `acquire`
            return False
        try:
            return not self._try(handle, fcntl.LOCK_SH)
        except StorageError:  # a file system without locks: nobody can hold one
            return False
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Holds it together with others who do the same."""
        handle = self.acquire(shared=True)
        try:
            yield
        finally:
            os.close(handle)

    def __enter__(self) -> None:
        self._handle = self.acquire()

    def __exit__(self, *error) -> None:
        os.close(self._handle)

    def _open(self, flags: int) -> int:
        # Neither a link nor a pipe in its place is followed or waited for.
        handle = os.open(self.path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise StorageError(f"{self.path} is no regular file.", "Remove it by hand; it is made again.")
        return handle

    def _try(self, handle: int, kind: int) -> bool:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise StorageError(
                    f"{self.path} cannot be locked ({error.strerror}).", "Look at the disk, then try again."
                ) from error
            raise StorageError(
                f"The file system of {self.path} has no file locks (flock: {error.strerror}), so two processes could "
                "change one run at once.",
                "Set REPLAY_OUTPUTS_DIR (or --outputs) to a folder on a local disk, or mount this one with locks.",
            ) from error


class RunLock(FileLock):
    """Held by whoever works on a run, cleans it or deletes it; shared by shards, which add files and change none."""

    def __init__(self, folder: Path, run_id: str):
        busy = f"Run {run_id} is in use by a job in progress.", "Wait until it has finished, or cancel it."
        super().__init__(folder / ".lock", busy)
