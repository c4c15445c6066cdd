"""The job that asks what each training image did to its own loss (`engine.core.self_influence`).

Each image, or each group of them, is a target. `kept.A_PART` targets at a time go through the training backwards; of
their scores [K, N] an entry an image is kept, and the rest is dropped. After each part the file with the run's
self-influence (`engine.analysis.self_influence`) is written anew: a job that was killed goes on with the images that it
lacks, to the same bits, and a second job asks only for what the first did not.
"""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from engine import files
from engine.analysis import self_influence as kept
from engine.datasets.base import Dataset
from engine.errors import ConfigError
from engine.jobs import ahead
from engine.jobs.job import Job, Phase, Result, next_name, require_trained
from engine.runs.run import Run

if TYPE_CHECKING:
    from engine.core.self_influence import Group
    from engine.core.state import Trajectory
    from engine.jobs.reopen import Trained
    from engine.jobs.session import Session


@dataclass(frozen=True)
class SelfInfluence(Job):
    """Of `images` (`engine.analysis.self_influence` has the forms), `together` of them a target: 1 is exact, more is an
    estimate with its standard error. An empty `mode` is that of the trajectory that the run keeps."""

    kind: ClassVar[str] = "self-influence"
    stages: ClassVar[tuple[str, ...]] = ("prepare", "rebuild", "replay", "done")

    images: str = "loss:500"
    together: int = 1
    mode: str = ""

    def check(self, run: Run, dataset: Dataset) -> Self:
        require_trained(run)
        record, images = run.manifest(), kept.canonical(self.images, dataset)
        count = len(kept.chosen(images, record, dataset))
        most = max(1, min(kept.MOST_TOGETHER, count // 2))
        if type(self.together) is not int or not 1 <= self.together <= most:
            problem = f"must be a whole number from 1 to {most:,} for {count:,} images, not {self.together!r}"
            raise ConfigError(
                f"The number of images a target {problem}.", "1 is exact; 32 is an estimate.", {"together": problem}
            )
        return replace(self, images=images, mode=record.mode_for(self.mode or None))

    def doing(self) -> str:
        how = f", estimated, {self.together:,} a target" if self.together > 1 else ""
        return f"Self-influence of {kept.in_words(self.images)}{how}"

    def ahead(self, run: Run, dataset: Dataset) -> tuple[Phase, ...]:
        return ahead.replay(run, dataset, self.replays(run, dataset), self.mode)

    def replays(self, run: Run, dataset: Dataset) -> int:
        """Targets that it is to replay: about as many, of an estimate that is partly known."""
        record = run.manifest()
        lacking = lacking_of(kept.chosen(self.images, record, dataset), kept.known(record), self.together)
        return kept.replays(len(lacking), self.together)

    def do(self, session: "Session") -> Result:
        from engine.jobs.reopen import check_steps, reopen
        from engine.jobs.replay import finalize

        work = Work(session, self, reopen(session))
        if work.todo:
            with contextlib.closing(session.trajectory(self.mode, work.trained.digests)) as trajectory:
                check_steps(session, trajectory)
                work.replay(trajectory)
        finalize(session, self.mode)
        return Result()


def lacking_of(images: np.ndarray, known: kept.Known | None, together: int) -> np.ndarray:
    """Of `images`, those that are not known as well as the job would tell them."""
    return images if known is None else images[~known.as_good_as(together)[images]]


@dataclass(frozen=True, eq=False)
class Work:
    """One job on its way: its parts, cut once and for all, and those of their groups that are to be done."""

    session: "Session"
    job: SelfInfluence
    trained: "Trained"

    @cached_property
    def groups(self) -> "list[Group]":
        from engine.core.self_influence import groups_of

        record, dataset = self.session.run.manifest(), self.session.dataset
        return groups_of(kept.chosen(self.job.images, record, dataset), self.job.together)

    @cached_property
    def width(self) -> int:
        """Targets a pass: decided by the whole job, and never by what is left of it, for it decides last bits."""
        from engine.core.memory import bytes_per_target, chunk_that_fits
        from engine.jobs.replay import WIDEST_ON_GPU

        session, most = self.session, min(kept.A_PART, len(self.groups))
        if session.config.targets_per_pass:
            return min(session.config.targets_per_pass, most)
        fit = chunk_that_fits(bytes_per_target(session.model, session.stream.batch_shape), most, session.device)
        return min(fit, WIDEST_ON_GPU) if session.device.type == "cuda" else fit

    @cached_property
    def parts(self) -> "list[list[Group]]":
        return [self.groups[i : i + kept.A_PART] for i in range(0, len(self.groups), kept.A_PART)]

    @cached_property
    def todo(self) -> "list[list[Group]]":
        """Groups, by part, of which an image is lacking; parts that are done are left away."""
        known = kept.known(self.session.run.manifest())
        lacking = [
            [group for group in part if len(lacking_of(group.rows, known, self.job.together))] for part in self.parts
        ]
        return [part for part in lacking if part]

    def replay(self, trajectory: "Trajectory") -> None:
        from engine.core.self_influence import self_influence

        session, steps, began = self.session, self.session.counted, time.monotonic()
        session.journal.update(status_said="replaying")
        before = len(self.parts) - len(self.todo)
        meter = session.journal.phase("replay", steps * len(self.parts), steps * before)
        for i, part in enumerate(self.todo, before):
            found = self_influence(
                session.model,
                session.stream,
                trajectory,
                self.trained.final,
                part,
                self.width,
                on_progress=lambda done, adjoint, scores, i=i: meter.report(i * steps + done),
                before_step=session.check_cancelled,
                passes=session.backwards(self.width),
                on_fewer=lambda chunk: session.journal.note(f"Memory ran out: {chunk} targets a pass from here on."),
                start=session.start,
            )
            session.check_data()
            self._keep(part, found)
        targets = sum(map(len, self.todo))
        session.journal.timing("replay_seconds", time.monotonic() - began, replay_targets=targets)
        session.journal.update(targets_per_pass=self.width, steps_recomputed=trajectory.rebuilt)
        images = sum(len(group.rows) for part in self.todo for group in part)
        session.journal.note(f"Self-influence of {images:,} images, by {targets:,} targets.")

    def _keep(self, part: "Sequence[Group]", found: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """Adds a part to what is known, in a new file, and records that in place of the one before, which stays until
        the next: a page that is being drawn may be about to read it."""
        session, record = self.session, self.session.run.manifest()
        known, before = kept.known(record), kept.recorded_name(record)
        n = session.dataset.sizes.n_train
        scores = np.full((3, n), np.nan, np.float32) if known is None else np.array(known.scores)
        for group, (own, error) in zip(part, found, strict=True):
            worse = ~(scores[2, group.rows] <= len(group.rows))
            rows = group.rows[worse]
            scores[:, rows] = np.stack([own[worse], error[worse], np.full(len(rows), len(group.rows), np.float32)])
        name = f"scores/{next_name(record.files, 'scores', kept.PREFIX, among=f'{kept.PREFIX}-')}.npy"
        path = session.run.path / name
        sha = session.journal.save(scores.nbytes, lambda: files.write_npy(path, scores))
        others = {each: s for each, s in record.files.items() if each != before}
        session.journal.update(files=others | {name: sha})
        for old in path.parent.glob(f"{kept.PREFIX}-*.npy"):
            if f"scores/{old.name}" not in (name, before):
                files.remove_inside(session.run.path, old)
