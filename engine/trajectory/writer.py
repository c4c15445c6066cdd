"""A thread that writes states."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from engine import space
from engine.errors import StorageError
from engine.trajectory.background import Background

WAITING = 256 << 20  # bytes of states that may wait to be written


class Writer:
    """Writes in the order given, in a thread of its own; a failure is raised by a later call.

    At most `WAITING` bytes, or one state, wait; then `write` waits too. `space` may let a write wait until
    the disk has space. After a failure nothing more is written.
    """

    def __init__(self, space: space.DiskSpace | None = None):
        self.space, self._failed = space, False
        self._thread = Background("replay-writer")
        self._pending: deque[tuple[Future, int]] = deque()

    def write(self, size: int, act: Callable[[], object]) -> Future:
        """Hands over `act`, which writes about `size` bytes; the future is done once it has.

        Raises what an earlier `act` raised.
        """
        while self._pending and (self._pending[0][0].done() or sum(s for _, s in self._pending) + size > WAITING):
            self._pending.popleft()[0].result()
        self._pending.append((self._thread.submit(lambda: self._act(size, act)), size))
        return self._pending[-1][0]

    def _act(self, size: int, act: Callable[[], object]) -> None:
        if self._failed:
            raise StorageError("An earlier file could not be written.", "See the error before this one.")
        try:
            self.space.write(size, act) if self.space is not None else act()
        except BaseException:
            self._failed = True
            raise

    def flush(self) -> None:
        """Returns once all is written; raises what writing it raised."""
        while self._pending:
            self._pending.popleft()[0].result()

    def close(self) -> None:
        """Gives up what has not been begun."""
        self._thread.close()
