"""Pages first: before a step, a job waits while a page is being drawn, so that a click has all cores. No torch.

    a page  ──drawn────┤ the browser lays it out ├        at most `AT_MOST` from its start, however long it takes
    a job   ─step─┤ waits ······················├─step─step─    then it works at least as long as it waited

So a job that many people click beside gets half of the time at least, and one that nobody looks at all of it. What
draws itself every second or two (fragments with `run_every`) is no such drawing: nobody waits for it. A wait lies
between two steps and changes no number that a step computes.
"""

import contextlib
import threading
import time
from collections.abc import Iterator

AT_MOST = 0.4  # seconds from the start of a drawing for which jobs wait

LAID_OUT = 0.2  # seconds after a drawing in which the browser, perhaps on these very cores, lays out what it was sent


class Way:
    """Who is drawn, and until when jobs wait for it. Times are those of `time.monotonic`."""

    def __init__(self, at_most: float = AT_MOST, laid_out: float = LAID_OUT):
        self.at_most, self.laid_out = at_most, laid_out
        self._changed = threading.Condition()
        self._drawn: dict[object, float] = {}  # what is drawn, and when it is not waited for any more
        self._quiet_until = self._works_until = 0.0

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        """Around all that is done to draw a page."""
        page, ends = object(), time.monotonic() + self.at_most
        with self._changed:
            self._drawn[page] = ends
        try:
            yield
        finally:
            with self._changed:
                del self._drawn[page]
                quiet = min(ends, time.monotonic() + self.laid_out)
                self._quiet_until = max(self._quiet_until, quiet)
                self._changed.notify_all()

    def give(self) -> float:
        """Before a step: waits as long as pages are first, and returns the seconds that it waited."""
        if not self._drawn and time.monotonic() >= self._quiet_until:  # nearly always: a step takes no lock for it
            return 0.0
        with self._changed:
            began = now = time.monotonic()
            if now < self._works_until:
                return 0.0
            while (ends := max(self._quiet_until, *self._drawn.values(), 0.0)) > now:
                self._changed.wait(ends - now)
                now = time.monotonic()
            self._works_until = now + (now - began)
            return now - began


_way = Way()  # of this process: its pages, and its one worker

drawing, give = _way.drawing, _way.give
