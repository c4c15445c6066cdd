"""The job that measures the largest curvature times the rate at steps of a run (`engine.core.curvature`)."""

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from engine.analysis import stability, trust
from engine.datasets.base import Dataset
from engine.errors import ConfigError
from engine.jobs import ahead
from engine.jobs.job import Job, Phase, Result, require_trained
from engine.jobs.reports import write_report
from engine.runs.manifest import Manifest
from engine.runs.run import Run

if TYPE_CHECKING:
    from engine.core.state import State
    from engine.jobs.session import Session

LOOKS = 12  # steps, spread over the run

MOST = 1000

PRODUCTS = 8  # Hessian-vector products a step


@dataclass(frozen=True)
class Curvature(Job):
    """Trains once more, the same training, and stops at `looks` of its steps to look at the curvature there."""

    kind: ClassVar[str] = "curvature"
    stages: ClassVar[tuple[str, ...]] = ("prepare", "retrain", "done")

    looks: int = LOOKS

    def check(self, run: Run, dataset: Dataset) -> Self:
        require_trained(run)
        if isinstance(self.looks, bool) or not isinstance(self.looks, int) or not 1 <= self.looks <= MOST:
            raise ConfigError(
                f"The number of steps to look at must be a whole number from 1 to {MOST:,}, not {self.looks!r}.",
                f"Choose {LOOKS}.",
            )
        return self

    def doing(self) -> str:
        return f"Measuring the curvature at {self.looks:,} steps"

    def ahead(self, run: Run, dataset: Dataset) -> tuple[Phase, ...]:
        return (Phase("retrain", steps_of_work(ahead.steps_of(run, dataset), self.looks)),)

    def do(self, session: "Session") -> Result:
        from engine.core.curvature import curvature_times_rate
        from engine.core.step import Eager
        from engine.core.training import advance
        from engine.jobs.reopen import reopen

        reopen(session)
        session.journal.update(status_said="validating")
        began, values = time.monotonic(), {}
        looked = stability.spread(session.steps, self.looks)
        passes = Eager(session.model, session.config.precision, chunk=1)
        meter = session.journal.phase("retrain", session.steps)

        def look(t: int, state: "State") -> None:
            if t in looked:
                inputs = session.stream.at(t)
                found = curvature_times_rate(session.model, session.config.recipe, state, inputs, PRODUCTS, passes)
                values[t] = found if math.isfinite(found) else None

        def before(t: int) -> None:
            meter.report(t)
            session.check_cancelled(t)

        last = max(looked) + 1
        advance(session.model, session.stream, session.initial, 0, last, look, None, before, session.forwards)
        report = {
            "kind": "curvature",
            "steps": list(values),
            "values": list(values.values()),
            "limit": stability.limit(session.config.recipe),
            "products": PRODUCTS,
        }
        write_report(session, trust.CURVATURE, report)
        most = max((value for value in values.values() if value is not None), default=math.nan)
        session.journal.note(f"Curvature × rate at {len(values)} steps: {most:.3g} at most.")
        session.journal.timing("validate_seconds", time.monotonic() - began)
        return Result(reports=(trust.CURVATURE,))


def steps_of_work(steps: int, looks: int = LOOKS) -> int:
    """What it costs, in training steps: a training of so many, and a target's step backwards for each product."""
    return steps + round(looks * PRODUCTS * ahead.A_TARGET)


def seconds(record: Manifest, looks: int = LOOKS) -> float | None:
    """The same in seconds, as steps of this run took; None where that was not measured."""
    step = ahead.of_record(record).step
    return None if step is None else step * steps_of_work(record.steps or 0, looks)
