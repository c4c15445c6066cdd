"""A dummy job: writes the norm of the final parameters as a report."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from engine.datasets.base import Dataset
from engine.errors import ConfigError
from engine.jobs.job import Job, Result, require_trained
from engine.jobs.registry import JOBS
from engine.runs.run import Run

if TYPE_CHECKING:
    from engine.jobs.session import Session


@dataclass(frozen=True)
class DummyNorm(Job):
    kind: ClassVar[str] = "dummy-norm"
    stages: ClassVar[tuple[str, ...]] = ("prepare", "done")

    order: int = 2

    def check(self, run: Run, dataset: Dataset) -> Self:
        require_trained(run)
        if self.order < 1:
            raise ConfigError(f"There is no norm of order {self.order}.", "Choose 2.")
        return self

    def do(self, session: "Session") -> Result:
        from engine.jobs.reopen import reopen
        from engine.jobs.reports import write_report

        norm = float(reopen(session).final.theta.norm(self.order))
        write_report(session, "dummy-norm", {"kind": self.kind, "norm": norm})
        return Result(reports=("dummy-norm",))


JOBS[DummyNorm.kind] = DummyNorm
