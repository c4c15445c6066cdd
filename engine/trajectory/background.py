"""A thread that does tasks in the order in which they are given."""

import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")

_Tasks = queue.SimpleQueue[tuple[Future, Callable[[], object]] | None]


class Background:
    """One daemon thread and its queue; it ends with `close`, or when nobody holds this any more.

    Not a `ThreadPoolExecutor`: those refuse tasks from the moment that the main thread has ended, while a job
    of a server that was asked to stop (Streamlit handles the signal and returns from main) still has a step to
    finish and a file to write.
    """

    def __init__(self, name: str):
        self._tasks: _Tasks = queue.SimpleQueue()
        self._closed = False
        # The thread knows the queue alone, so that it keeps nobody alive.
        self._thread = threading.Thread(target=_work, args=(self._tasks,), name=name, daemon=True)
        self._end = weakref.finalize(self, self._tasks.put, None)
        self._end.atexit = False  # tasks may still come while the process ends
        self._thread.start()

    def submit(self, act: Callable[[], Result]) -> "Future[Result]":
        """Calls `act` in the thread once all earlier tasks are done; what it returns or raises is the future's."""
        if self._closed:
            raise RuntimeError("a task for a closed thread")
        future: Future[Result] = Future()
        self._tasks.put((future, act))
        return future

    def close(self) -> None:
        """Cancels what was not begun, and returns once the task in hand is done."""
        self._closed = True
        while True:
            try:
                task = self._tasks.get_nowait()
            except queue.Empty:
                break
            if task is not None:
                task[0].cancel()
        self._end.detach()
        self._tasks.put(None)  # not by the finalizer, which does nothing any more once the process ends
        self._thread.join()


def _work(tasks: _Tasks) -> None:
    while (task := tasks.get()) is not None:
        future, act = task
        if future.set_running_or_notify_cancel():
            try:
                result = act()
            except BaseException as error:  # whoever asks the future is told
                future.set_exception(error)
            else:
                future.set_result(result)
                del result
        del task, future, act  # no state is held while the next task is waited for
