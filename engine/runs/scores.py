"""Score sets and the targets in them."""

from dataclasses import dataclass
from functools import cached_property

from engine.datasets.base import Dataset
from engine.targets import Target


@dataclass(frozen=True)
class TargetRef:
    """One row of one score set: `name` as in the configuration, of one target function."""

    name: str
    function: str
    score_set: str
    row: int

    @property
    def key(self) -> str:
        """For links: unique within a run, such as `test:3.loss`."""
        return f"{self.name}.{self.function}"

    @cached_property
    def target(self) -> Target:
        """What it asks about, as a value."""
        return Target.parse(self.name)

    def title(self, dataset: Dataset) -> str:
        """What a person reads: the target, and the function of it."""
        return f"{self.target.title(dataset)} · {self.function}"
