"""What a job will cost before it is begun, phase by phase, and what was measured of that. No torch.

Costs are in training steps: what one step of the run's own training takes is the unit in which everything else was
measured, and in which a slower machine, or one that others work on, stays right. The seconds of a step come from the
run itself, else from the newest run like it in the same folder; once steps are done, from those
(`engine.runs.progress`).
"""

import contextlib
from dataclasses import dataclass

from engine.analysis import cost
from engine.config import RunConfig, window_start
from engine.core.schedule import plan_for
from engine.datasets.base import Dataset
from engine.errors import ReplayError
from engine.jobs.job import Phase
from engine.runs.manifest import Manifest
from engine.runs.run import Run, list_runs

A_TARGET = 2.6  # training steps that one target's step backwards takes (docs/measurements.md), where none was measured

LOOKED_AT = 20  # runs, the newest, among which one like this is looked for


@dataclass(frozen=True)
class Measured:
    """`step`: seconds of a training step; `target`: what one target's step backwards takes, in training steps."""

    step: float | None = None
    target: float = A_TARGET


def measured(run: Run) -> Measured:
    """By the run's own training and replays, else by those of the newest run like it."""
    record = run.manifest()
    own = of_record(record)
    if own.step is not None:
        return own
    config = record.config
    for other in list_runs(run.root)[:LOOKED_AT]:
        with contextlib.suppress(ReplayError):  # a damaged one has nothing to say
            theirs = other.manifest()
            if other.id != run.id and _like(theirs.config) == _like(config) and of_record(theirs).step is not None:
                return of_record(theirs)
    return own


def of_record(record: Manifest) -> Measured:
    """By the run's own training and replays."""
    seconds, steps = record.timings.get("train_seconds"), record.steps
    if not record.trained or not seconds or not steps:
        return Measured()
    step, replay = seconds / steps, cost.replay_seconds(record, 1)
    return Measured(step, A_TARGET if replay is None else replay / (steps - record.window_start) / step)


def _like(config: RunConfig) -> tuple:
    """What decides the seconds of a step."""
    return (
        config.dataset,
        config.model,
        config.width,
        config.model_options,
        config.frozen,
        config.recipe.batch_size,
        config.recipe.optimizer,
        config.recipe.augment,
        config.device,
        config.precision,
        config.compile,
    )


def steps_of(run: Run, dataset: Dataset) -> int:
    return len(plan_for(run.manifest().config.recipe, dataset.sizes.n_train))


def counted_of(run: Run, dataset: Dataset) -> int:
    """Steps of the run's window: what a replay goes back over, and what a retraining does again."""
    steps = steps_of(run, dataset)
    return steps - window_start(run.manifest().config, steps)


def training(run: Run, dataset: Dataset) -> Phase:
    return Phase("train", steps_of(run, dataset))


def replay(run: Run, dataset: Dataset, targets: int, mode: str) -> tuple[Phase, ...]:
    """The replay for so many targets, after a training once more where the run keeps no states for the mode."""
    counted, record = counted_of(run, dataset), run.manifest()
    backwards = Phase("replay", round(counted * (targets * measured(run).target + (mode == "recompute"))))
    once_more = record.trained and not record.modes().get(mode, False)
    return (Phase("rebuild", counted), backwards) if once_more else (backwards,)


def retraining(run: Run, dataset: Dataset, trainings: int) -> tuple[Phase, ...]:
    return (Phase("retrain", trainings * counted_of(run, dataset)),)
