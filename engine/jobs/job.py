"""What can be done with a run, as a frozen value. No torch.

A page, the command line and the worker build the same value, `check` judges it before anything is written, and
`do` does it. Until it is done its record, a JSON object, stands in the run's manifest: a run that was killed,
cancelled or failed goes on with it. The kinds are listed in `engine.jobs.registry`; a kind of one's own is a
subclass that is added there.
"""

import abc
import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from engine.datasets.base import Dataset
from engine.errors import ConfigError
from engine.runs.job import JobRecord
from engine.runs.run import Run
from engine.targets import AllTests, Target, UploadedImage

if TYPE_CHECKING:
    from engine.jobs.session import Session

NAMED = 4  # targets that a list names before it says how many more there are

NUMBER = re.compile(r"-(\d+)\.")  # at the end of a file's stem: loss-003.npy


@dataclass(frozen=True)
class Result:
    """What a job left in the run's folder, by name: `scores/<scores>.npy`, `validation/<report>.json`."""

    scores: str | None = None
    reports: tuple[str, ...] = ()


@dataclass(frozen=True)
class Phase:
    """A phase to come, and what it costs: as much time as so many training steps."""

    name: str
    cost: float


@dataclass(frozen=True)
class Job(abc.ABC):
    """One kind of work on a run. Its fields are its options, each a number, a text or a tuple of them.

    `kind` names it in manifests and events. `stages` are the phases that it goes through, in the order in which
    they are shown (`engine.runs.events` lists the phases). Without `needs_model` its session is a `DataSession`, and
    it is also done of a run whose model is not here.
    """

    kind: ClassVar[str]
    stages: ClassVar[tuple[str, ...]]
    needs_model: ClassVar[bool] = True

    @abc.abstractmethod
    def check(self, run: Run, dataset: Dataset) -> Self:
        """The same job with all that it left open decided, as it will be recorded.

        Raises `ConfigError` for what can never be done with this run, and changes nothing. It is called once
        by whoever submits the job, while the run is held, and again when its turn comes.
        """

    @abc.abstractmethod
    def do(self, session: "Session") -> Result:
        """Does the job. torch is imported here and not at the module's head: pages build jobs without it."""

    def doing(self) -> str:
        """What goes on while it is done, in a few words for people, such as «Replaying 2 targets: test 3, test 9»."""
        return f"Doing the job «{self.kind}»"

    def ahead(self, run: Run, dataset: Dataset) -> tuple[Phase, ...]:
        """The phases that take its time, in their order, from which the time left in all is told. None are foretold of
        a kind that does not say them, and the time left is then that of the phase in hand."""
        return ()

    def record(self) -> JobRecord:
        """As it stands in the manifest: `from_record` of `engine.jobs.registry` is the inverse."""
        return JobRecord(self.kind, {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)})


def _plain(value):
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def targets_in_words(texts: tuple[str, ...]) -> str:
    """How many, and the first of them: «2 targets: test 3, test 9»."""
    first = ", ".join(_short(text) for text in texts[:NAMED])
    more = f" and {len(texts) - NAMED:,} more" if texts[NAMED:] else ""
    return f"{len(texts):,} target{'s' if len(texts) != 1 else ''}: {first}{more}"


def _short(text: str) -> str:
    """A target's text as people read it in a list, without the names that only its data set knows."""
    target = Target.parse(text)
    if isinstance(target, AllTests):
        return "all test images"
    if isinstance(target, UploadedImage):
        return f"own image {target.image_id[:6]}"
    return str(target).replace(":", " ", 1)


def require_trained(run: Run) -> None:
    """Raises `ConfigError` for a run whose training was not done to its end, and for one that was saved from Python, or
    has scores of another program: its model is not here."""
    manifest = run.manifest()
    if manifest.method:
        raise ConfigError(
            f"Run {run.id} shows scores of {manifest.method}, which were made elsewhere: neither their model nor its "
            "training is here, and nothing more can be computed with them.",
            "Train a run on the same data, and hold the two against each other on Compare runs.",
        )
    if not manifest.trained:
        raise ConfigError(f"Run {run.id} was not trained to its end.", "Resume it first.")
    if manifest.from_python:
        raise ConfigError(
            f"Run {run.id} was saved from Python, and its model is not here: nothing more can be computed with it.",
            f"Do it in Python: trained = engine.load({str(run.path)!r}, model), and then attribute or retrain.",
        )


def next_name(recorded: Iterable[str], folder: str, prefix: str, among: str = "") -> str:
    """`prefix` and the number after the highest among the recorded files `folder/among…-<number>.<suffix>`.

    Taken from the names alone, before a job begins: a file among them that is damaged costs the job nothing.
    """
    names = [f.partition("/")[2] for f in recorded if f.startswith(f"{folder}/{among}")]
    numbers = [int(match[1]) for match in map(NUMBER.search, names) if match]
    return f"{prefix}-{max(numbers, default=-1) + 1:03d}"
