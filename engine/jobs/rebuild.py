"""The job that makes a run's checkpoints again."""

import contextlib
import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from engine.datasets.base import Dataset
from engine.errors import ConfigError
from engine.jobs import ahead
from engine.jobs.job import Job, Phase, Result, require_trained
from engine.jobs.replay import finalize
from engine.runs.run import Run

if TYPE_CHECKING:
    from engine.jobs.session import Session


@dataclass(frozen=True)
class Rebuild(Job):
    """Trains once more, to the same states, for disk or recompute mode; only what is missing or damaged is made."""

    kind: ClassVar[str] = "rebuild"
    stages: ClassVar[tuple[str, ...]] = ("prepare", "rebuild", "done")

    mode: str = "disk"

    def check(self, run: Run, dataset: Dataset) -> Self:
        require_trained(run)
        mode = run.manifest().mode_for(self.mode or None)
        if mode == "memory":
            raise ConfigError("Nothing is kept in memory once a run has ended.", "Rebuild for disk or recompute mode.")
        return dataclasses.replace(self, mode=mode)

    def doing(self) -> str:
        return f"Rebuilding the checkpoints for {self.mode} mode, by training once more"

    def ahead(self, run: Run, dataset: Dataset) -> tuple[Phase, ...]:
        return (Phase("rebuild", ahead.counted_of(run, dataset)),)

    def do(self, session: "Session") -> Result:
        from engine.jobs.reopen import reopen

        trained, journal = reopen(session), session.journal
        journal.update(status_said="rebuilding")
        began = time.monotonic()
        with contextlib.closing(session.trajectory(self.mode, trained.digests)) as trajectory:
            trajectory.rebuild()
        seconds = time.monotonic() - began
        journal.timing("rebuild_seconds", seconds)
        journal.note(
            f"Checkpoints for {self.mode} mode are complete after {seconds:.1f} s: {trajectory.rebuilt} of "
            f"{session.steps} steps were trained again, and agree with the recorded digests."
        )
        finalize(session, self.mode)
        return Result()
