"""A thread that writes states."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from engine import space
from engine.errors import StorageError

WAITING = 256 << 20  # bytes of states that may wait to be written


class Writer:
    """Writes in the order given, in a thread of its own; a failure is raised by a later call.

    At most `WAITING` bytes, or one state, wait; then `write` waits too. `room` may let a write
    wait for space. After a failure nothing more is written.
    """

    def __init__(self, room: space.DiskSpace | None = None):
        self.room, self._failed = room, False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="replay-writer")
        self._pending: deque[tuple[Future, int]] = deque()

    def write(self, size: int, act: Callable[[], object]) -> Future:
        while self._pending and (self._pending[0][0].done() or sum(s for _, s in self._pending) + size > WAITING):
            self._pending.popleft()[0].result()
        self._pending.append((self._pool.submit(self._act, size, act), size))
        return self._pending[-1][0]

    def _act(self, size: int, act: Callable[[], object]) -> None:
        if self._failed:
            raise StorageError("An earlier file could not be written.", "See the error before this one.")
        try:
            self.room.write(size, act) if self.room is not None else act()
        except BaseException:
            self._failed = True
            raise

    def flush(self) -> None:
        while self._pending:
            self._pending.popleft()[0].result()

    def close(self) -> None:
        """Gives up what has not been begun."""
        self._pool.shutdown(wait=True, cancel_futures=True)
