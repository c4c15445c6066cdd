"""Memory that pages are done with goes back to the system.

The C library keeps what was freed for whoever asks next, in each thread's arena and at the end of the heap: tens of
megabytes once a page has looked at 60,000 images. glibc gives it back where it is asked to (`malloc_trim`), which takes
some milliseconds: here, once no page has been drawn for a moment. Another C library is left as it is.
"""

import ctypes
import threading
import time

CALM = 1.0  # seconds without a page

_mutex, _drawn = threading.Lock(), threading.Event()
_thread: threading.Thread | None = None


def soon() -> None:
    """A page has been drawn."""
    global _thread
    _drawn.set()
    with _mutex:
        if _thread is None:
            _thread = threading.Thread(target=_work, name="trim", daemon=True)
            _thread.start()


def _work() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while trim is not None:
        _drawn.wait()
        while _drawn.is_set():
            _drawn.clear()
            time.sleep(CALM)
        trim(0)
