"""Space on the disk: how much is free, and waiting until there is enough."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from engine.errors import CancelledError, StorageError

RESERVE = 16 << 20  # bytes of the disk that a run leaves free, for logs and for others

LOOK_AGAIN = 1.0  # seconds between looks at a full disk


def disk_free(path: Path) -> int:
    return shutil.disk_usage(path).free


class Room:
    """Lets a write wait until the disk has room for it.

    `write(bytes, act)` runs `act` once that many bytes and `RESERVE` are free, and again where the
    disk refuses it as full all the same. While it waits, `tell("paused", needed=, disk_free=)` and
    then `tell("continued")` are called, and `stop` ends it with a `CancelledError`.
    """

    def __init__(self, folder: Path, stop: threading.Event, tell: Callable):
        self.folder, self.stop, self.tell = folder, stop, tell

    def write(self, size: int, act: Callable):
        paused = False
        while True:
            if disk_free(self.folder) >= size + RESERVE:
                try:
                    result = act()
                    if paused:
                        self.tell("continued")
                    return result
                except StorageError as error:
                    if not error.passing:
                        raise
            if not paused:
                paused = True
                self.tell("paused", needed=size + RESERVE, disk_free=disk_free(self.folder))
            if self.stop.wait(LOOK_AGAIN):
                raise CancelledError(
                    "Cancelled while waiting for space on the disk.", "What was trained and scored before is kept."
                )
