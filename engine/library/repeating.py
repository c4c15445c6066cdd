"""`engine.repeat`: a run of the app or of the command line once more, with other seeds."""

import os
from pathlib import Path

from engine.errors import ConfigError
from engine.jobs import execute
from engine.jobs import repeat as repeats
from engine.jobs.journal import OnEvent
from engine.library.saving import place_of
from engine.runs.run import Run


def repeat(
    place: str | os.PathLike, seeds: int = repeats.PROPOSED, *, validate: bool = True, on_event: OnEvent | None = None
) -> tuple[Path, ...]:
    """Trains the recipe of a run with other seeds, until there are `seeds` trainings of it, and scores each for the
    targets that the run is scored for; with `validate` they are validated as the run is. Returns the folders of all,
    the run's own first. What is there already is not trained again: interrupted, the same call goes on.

    `place` is a run's id, or its folder. `on_event(event)` is told what each run's log is told.

    Their means and spreads: `engine.analysis.seeds.over_seeds([Run(root, id).manifest(), …])`. A training of one's own
    network is repeated by `engine.train` with another `Recipe(seed=…)`, and another first state of the model.

    Raises `RunNotFoundError`, `ConfigError` for a run that is not trained or was saved from Python, and whatever a
    training raises.
    """
    root, run_id = place_of(place)
    run = Run.open(root, run_id)
    for other in repeats.prepare(repeats.plan(run, seeds, validate)):
        each = Run.open(root, other)
        with each.lock():
            execute.execute(each, on_event=on_event)
    after = repeats.plan(run, seeds, validate)
    busy = [str(member.seed) for member in after.members if member.busy]
    if busy:
        raise ConfigError(
            f"The trainings of seed {', '.join(busy)} are in progress elsewhere.", "Wait for them, and call this again."
        )
    return tuple(member.run.path for member in after.members if member.run is not None)
