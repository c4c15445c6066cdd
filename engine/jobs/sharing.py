"""Who does which part of a job: this process all of it, or several of them. No torch.

`Sharing` is one process. `engine.jobs.ranks.Team` gives parts out to the ranks that torchrun started,
`engine.jobs.shards.OneShard` does one share and knows nothing of the others, and `Merging` does none: all parts must
be there. A job that can be shared asks three things of it, in this order:

    mine = sharing.share(kind, items, lacking)     what this process shall do of the items
    …does it, each result a file of its own…
    sharing.wait(done)                             until `done()`: the others' results are there too

The items are JSON values in the order of the work, and are given out whole.
"""

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from engine.errors import IntegrityError
from engine.jobs.job import Job
from engine.jobs.parts import Shard

if TYPE_CHECKING:
    from engine.jobs.journal import Journal
    from engine.jobs.session import Session


class Sharing:
    """One process, which does everything."""

    alone = True  # whether this process does all of it
    size = 1
    shard: Shard | None = None
    failure: Exception | None = None  # why the others' part cannot be had, once that is known

    def at_work(self, journal: "Journal", record: Callable[[BaseException], None]) -> None:
        """What the others tell goes into `journal`. `record(error)` writes down why the work ended, for where the
        thread that does it cannot any more."""

    def begin(self, job: Job) -> None:
        """Tells the others which job is next, before it is begun."""

    def opened(self, session: "Session") -> None:
        """Once the session of a job is there: raises where another process has not the same before it."""

    def train(self) -> None:
        """Tells the others to train with this process, each for itself: in memory mode states outlive no process."""

    def share(self, kind: str, items: Sequence[Any], lacking: Collection[Any], **about: Any) -> list[Any]:
        """What this process shall do of the items that are `lacking`, in their order. `about` are JSON values that the
        others need for theirs."""
        return [item for item in items if item in lacking]

    def wait(self, done: Callable[[], bool]) -> None:
        """Returns once `done()`. Raises `failure` where one of the others has ended before its time, and
        `IntegrityError` where there is nobody to wait for."""
        if not done():
            raise IntegrityError("What this job has written cannot be read again.", "Look at the disk, and resume.")

    def check(self) -> None:
        """Raises `failure` where there is one."""
        if self.failure is not None:
            raise self.failure

    def why(self, error: BaseException) -> BaseException:
        """The reason for an error: the end of another process, where that was it."""
        return self.failure or error


class Merging(Sharing):
    """Nothing is computed: every part must be there."""

    alone = False

    def share(self, kind: str, items: Sequence[Any], lacking: Collection[Any], **about: Any) -> list[Any]:
        if lacking:
            raise IntegrityError(
                f"Parts that are missing: {len(lacking)}. Merging computes nothing.",
                "Do the shards that are missing.",
            )
        return []


ALONE = Sharing()
