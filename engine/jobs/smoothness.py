"""The job that measures how straight the training's answer to changed weights is (`engine.core.retraining`)."""

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from engine.analysis import trust
from engine.datasets.base import Dataset
from engine.errors import ConfigError
from engine.jobs import ahead
from engine.jobs.job import Job, Phase, Result, require_trained
from engine.jobs.reports import numbers, write_report
from engine.runs.run import Run

if TYPE_CHECKING:
    from engine.jobs.session import Session

MOST_DIRECTIONS = 64


@dataclass(frozen=True)
class Smoothness(Job):
    """Metasmoothness along `directions` random directions of the weights, two trainings each."""

    kind: ClassVar[str] = "smoothness"
    stages: ClassVar[tuple[str, ...]] = ("prepare", "retrain", "done")

    directions: int = 2
    seed: int = 0

    def check(self, run: Run, dataset: Dataset) -> Self:
        require_trained(run)
        for value, low, high, what in (
            (self.directions, 1, MOST_DIRECTIONS, "The number of directions"),
            (self.seed, 0, 2**31 - 1, "The seed"),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ConfigError(
                    f"{what} must be a whole number from {low} to {high}, not {value!r}.",
                    "Choose 2 directions and the seed 0.",
                )
        return self

    def doing(self) -> str:
        return f"Measuring the smoothness, by {2 * self.directions} trainings"

    def ahead(self, run: Run, dataset: Dataset) -> tuple[Phase, ...]:
        return ahead.retraining(run, dataset, 2 * self.directions)

    def do(self, session: "Session") -> Result:
        import torch

        from engine.core import retraining
        from engine.jobs import window
        from engine.jobs.reopen import reopen

        first, journal = reopen(session).final, session.journal  # of the very training that w = 1 would repeat
        journal.update(status_said="validating")
        began, done, begin = time.monotonic(), 0, window.begin(session)
        meter = journal.phase("retrain", 2 * self.directions * session.counted)

        def before(t: int) -> None:
            meter.report(done + t - session.start)
            session.check_cancelled(t)

        def trained(weights: torch.Tensor):
            nonlocal done
            weights_1N = weights[None].to(session.device, session.dtype)
            (state,) = retraining.retrain(session.model, session.stream, weights_1N, before, session.forwards, begin)
            done += session.counted
            return state

        measured = []
        for i in range(self.directions):
            v = retraining.NUDGE * retraining.direction(session.stream.data.n, self.seed + i)
            measured.append(retraining.metasmoothness(first, trained(1 + v), trained(1 + 2 * v)))
        mean = float(np.mean(measured))
        report = {
            "kind": "smoothness",
            "nudge": retraining.NUDGE,
            "seed": self.seed,
            "directions": [None if math.isnan(each) else each for each in measured],
            **numbers({"mean": mean}),
        }
        write_report(session, trust.SMOOTHNESS, report)
        journal.note(f"Metasmoothness {mean:.3f}, mean of {self.directions} directions.")
        journal.timing("validate_seconds", time.monotonic() - began)
        return Result(reports=(trust.SMOOTHNESS,))
