"""Leaving a theme out, as its images' scores say and as retraining gives it: `make themes`.

    python -m tools.themes [--quick] [--outputs DIR]

Trains the preset `sample`, which explains eight targets, and computes its features. Of each target the strongest
harmful theme and the strongest helpful one are left out, one retraining each, and so are as many random images. Prints
a table, and for each side Pearson's and Spearman's correlation of what the scores say and what retraining gives, how
many signs agree, and the slope through the origin of the second on the first. docs/themes.md has the tables.

With --outputs the run is kept there, as `themes`, and no retraining is done twice.
"""

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine import config as configs
from engine import device
from engine.analysis import certainty, features, lds, themes, trust
from engine.analysis.themes import SIDES, Theme
from engine.datasets import registry as datasets
from engine.jobs import execute as work
from engine.jobs.features import Features
from engine.jobs.job import Job
from engine.jobs.what_if import WhatIf
from engine.runs.run import Run, outputs_root
from engine.runs.scores import TargetRef

NAME = "themes"


@dataclass(frozen=True)
class Outcome:
    """Of one theme, and of as many random images: the target's change as the scores say, and as retraining gave it, in
    nats; the standard error of the first, None where no validation says it; the loss before."""

    target: TargetRef
    theme: Theme
    predicted: float
    actual: float
    error: float | None
    before: float
    by_chance: float


def do(run: Run, job: Job | None = None) -> None:
    with run.lock():
        work.execute(run, job)


def retrained(run: Run, images: np.ndarray, key: str) -> dict:
    """What a target of the run was and became without some images, of the report of the retraining, made if it is
    not there."""
    left_out = sorted(images.tolist())

    def reports() -> list[dict]:
        return [each for each in trust.what_ifs(run.manifest()) if each["left_out"] == left_out]

    if not reports():
        do(run, WhatIf.of(left_out))
    (outcome,) = [each for each in certainty.with_errors(reports()[-1], run.manifest()) if each["key"] == key]
    return outcome


def outcome_of(run: Run, target: TargetRef, theme: Theme, seed: int) -> Outcome:
    n = len(run.manifest().score_sets.row(target))
    random = np.random.default_rng(seed).choice(n, len(theme.images), replace=False)
    without, chance = (retrained(run, images, target.key) for images in (theme.images, random))
    before, after = (without[when][target.function] for when in ("before", "actual"))
    by_chance = chance["actual"][target.function] - before
    return Outcome(target, theme, without["change"], after - before, without["standard_error"], before, by_chance)


def print_side(side: str, outcomes: list[Outcome], dataset) -> None:
    print(
        f"\n| target | loss | strongest {side} theme | images | share | by its scores | retrained | as many at random |"
        "\n|---|---|---|---|---|---|---|---|"
    )
    for each in outcomes:
        print(
            f"| {each.target.target.title(dataset)} | {each.before:.3f} | "
            f"{themes.name_of(each.theme, dataset.classes)} | {len(each.theme.images)} | {each.theme.share:.1%} | "
            f"{each.predicted:+.4f} | {each.actual:+.4f} | {each.by_chance:+.4f} |"
        )
    print(f"\n{side}: {in_short(outcomes)}")


def in_short(outcomes: list[Outcome]) -> str:
    predicted, actual = (np.array([getattr(each, name) for each in outcomes]) for name in ("predicted", "actual"))
    signs, linear = int((np.sign(predicted) == np.sign(actual)).sum()), np.corrcoef(predicted, actual)[0, 1]
    slope = float(predicted @ actual / (predicted @ predicted))
    chance = np.median(np.abs([each.by_chance for each in outcomes]))
    return (
        f"correlation {linear:.3f}, rank correlation {lds.spearman(predicted, actual):.3f}, {signs} of "
        f"{len(outcomes)} signs agree, slope {slope:.2f}; median |change| {np.median(np.abs(actual)):.4f} nats, of as "
        f"many random images {chance:.4f}"
    )


@contextlib.contextmanager
def folder(given: str | None) -> Iterator[Path]:
    if given is not None:
        yield outputs_root(given)
        return
    with tempfile.TemporaryDirectory() as own:
        yield outputs_root(own)


def trained(root: Path, quick: bool) -> Run:
    config = configs.preset("sample").replace(**({"recipe.epochs": 1, "recipe.batch_size": 500} if quick else {}))
    run = Run(root, NAME)
    if not run.path.is_dir():
        run = Run.create(root, config, NAME)
    if run.status != "finished":
        do(run)
    if features.read(run) is None:
        do(run, Features())
    return run


def main() -> None:
    call = argparse.ArgumentParser()
    call.add_argument("--quick", action="store_true", help="one epoch: to try the tool")
    call.add_argument("--outputs", metavar="DIR", help="where the run is kept (nowhere)")
    given = call.parse_args()
    with folder(given.outputs) as root, device.exact_arithmetic():
        run = trained(root, given.quick)
        record = run.manifest()
        dataset, known = datasets.load(record.config.dataset), features.read(record)
        print(f"`make themes`{' --quick' * given.quick}: {device.describe()}; accuracy {record.test_accuracy:.3f}")
        by_side: dict[str, list[Outcome]] = {side: [] for side in SIDES}
        for number, target in enumerate(record.score_sets.targets()):
            found = themes.find(record, dataset, target, known)
            for side in SIDES:
                if found.sides[side].themes:
                    by_side[side].append(outcome_of(run, target, found.sides[side].themes[0], number))
        for side, outcomes in by_side.items():
            print_side(side, outcomes, dataset)
        print(f"\nboth: {in_short([each for outcomes in by_side.values() for each in outcomes])}")


if __name__ == "__main__":
    main()
