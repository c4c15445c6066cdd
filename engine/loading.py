"""Modules that are many are loaded while Python's garbage collector rests.

Loading torch, and what its first derivative loads, makes a million objects that stay. The collector, which begins anew
each time that there are so many more of them, looks through all of them in vain: a quarter of the time.
"""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

derivatives_loaded = threading.Event()


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """Within it nothing is collected, in no thread of the process; afterwards as before."""
    was_at_work = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_at_work:
            gc.enable()


def load_derivatives() -> None:
    """What torch loads at its first derivative, and takes longer for than for itself."""
    with collector_at_rest():
        import torch._dynamo  # noqa: F401  (for its effect)
    derivatives_loaded.set()
