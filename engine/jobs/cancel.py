"""Asking a job to stop, and why. No torch."""

import threading


class Cancel(threading.Event):
    """Set where a job shall stop at its next step: by a person, or (`interrupt`) because the process ends.

    A cancelled run says so. An interrupted one stands as after a kill: nothing failed, and it can be resumed.
    """

    interrupted = False

    def interrupt(self) -> None:
        self.interrupted = True
        self.set()


def process_ends() -> bool:
    """Whether the interpreter is on its way out. A server that handles signals returns from its main function
    while the worker, a daemon thread, goes on computing."""
    return not threading.main_thread().is_alive()
