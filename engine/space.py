"""Space on the disk: how much is free, and waiting until there is enough."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from engine.errors import CancelledError, StorageError
from engine.files import storage_error

RESERVE = 16 << 20  # bytes of the disk that a run leaves free, for logs and for others

LOOK_AGAIN = 1.0  # seconds between looks at a full disk

Written = TypeVar("Written")


class Notify(Protocol):
    """Who is told of waiting: `kind` is "paused" (with `needed` and `disk_free`, in bytes) or "continued"."""

    def __call__(self, kind: str, /, **fields: Any) -> object: ...


def disk_free(path: Path) -> int:
    """Bytes free for this process on the disk of an existing folder."""
    try:
        return shutil.disk_usage(path).free
    except OSError as error:
        raise storage_error(path, error) from error


class DiskSpace:
    """Lets a write wait until the disk has space for it, so that a full disk pauses a run and does not end it.

    `folder`      on the disk that is written to
    `cancelled`   ends the waiting with a `CancelledError` once it is set
    `notify`      is told when waiting begins and ends; the disk may be too full for that, too
    """

    def __init__(self, folder: Path, cancelled: threading.Event, notify: Notify):
        self.folder, self.cancelled, self.notify = folder, cancelled, notify

    def write(self, size: int, act: Callable[[], Written]) -> Written:
        """Calls `act`, which writes about `size` bytes, once these and `RESERVE` are free; again where the disk
        refuses it as full all the same (a quota, another writer). Returns what `act` returns.

        Raises what `act` raises, except `StorageError`s that are `passing`, and `CancelledError`.
        """
        paused = False
        while True:
            if disk_free(self.folder) >= size + RESERVE:
                try:
                    result = act()
                except StorageError as error:
                    if not error.passing:
                        raise
                else:
                    if paused:
                        self._notify("continued")
                    return result
            if not paused:
                paused = True
                self._notify("paused", needed=size + RESERVE, disk_free=disk_free(self.folder))
            if self.cancelled.wait(LOOK_AGAIN):
                raise CancelledError(
                    "Cancelled while waiting for space on the disk.", "What was trained and scored before is kept."
                )

    def _notify(self, kind: str, **fields: Any) -> None:
        try:
            self.notify(kind, **fields)
        except StorageError as error:
            if not error.passing:
                raise
