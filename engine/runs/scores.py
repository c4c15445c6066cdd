"""Score sets and the targets in them."""

from dataclasses import dataclass


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
