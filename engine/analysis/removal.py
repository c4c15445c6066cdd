"""What it does to a target to leave out the images that help it most, or harm it most, beside random ones. No torch.

The sets are nested: the first 0.1 % by a target's scores, the first 1 %, the first 5 %. Random sets of the same numbers
say what any images of that number would do. `engine.jobs.removal` trains without each; its report, one a target,

    validation/removal-<n>.json     of each set: side, fraction, draw, number, predicted and actual change, its standard
                                    error, the figures after, and the share of the target's images that are taken for
                                    another class
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine import files
from engine.analysis import lds, lists, ranking, trust
from engine.errors import ConfigError
from engine.runs.manifest import Manifest
from engine.runs.scores import TargetRef
from engine.targets import UploadedImage

if TYPE_CHECKING:
    import pandas as pd

SIDES = "helpful", "harmful"

RANDOM = "random"

FRACTIONS = 0.001, 0.01, 0.05  # of the training images

DRAWS = 2  # random sets of each number that form and command line begin with

MOST = 200  # retrainings of one curve


@dataclass(frozen=True)
class Removed:
    """A set to leave out: one of `SIDES` by the target's scores, or `RANDOM`, of which there are several draws."""

    side: str
    fraction: float
    draw: int
    left_out: np.ndarray  # int64 [S], sorted


def sets(
    scores_N: np.ndarray,
    function: str,
    fractions: Iterable[float] = FRACTIONS,
    sides: Iterable[str] = SIDES,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Removed]:
    """In the order of the fractions. Of each at least one image; of a side that has fewer, all that it has, and no set
    where it has none. Random sets are those of a validation of this seed and fraction (`lds.subset`)."""
    n, removed = len(scores_N), []
    for fraction in sorted(fractions):
        share = max(fraction, 1 / n)
        ranked = ranking.rank(scores_N, function, lds.size_of_drop(n, share))
        for side in sides:
            if len(indices := np.sort(getattr(ranked, side))):
                removed.append(Removed(side, fraction, 0, indices))
        removed += [Removed(RANDOM, fraction, m, lds.subset(n, share, seed, m)) for m in range(draws)]
    return removed


def check_choice(fractions: tuple[float, ...], sides: tuple[str, ...], draws: int, seed: int) -> None:
    """Raises `ConfigError` for a curve that cannot be made."""
    if unknown := [side for side in sides if side not in SIDES]:
        raise ConfigError(f"«{unknown[0]}» is no side of a ranking.", f"Choose of {', '.join(SIDES)}.")
    if not fractions or len(set(fractions)) < len(fractions) or not all(0 < f < 1 for f in fractions):
        raise ConfigError(
            "The shares of images to leave out must be different numbers between 0 and 1.",
            "Choose 0.001, 0.01 and 0.05.",
        )
    for value, low, high, what in ((draws, 0, MOST, "The number of random sets"), (seed, 0, 2**31 - 1, "The seed")):
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ConfigError(
                f"{what} must be a whole number from {low} to {high:,}, not {value!r}.", "Choose 2 and 0."
            )
    if not sides and not draws:
        raise ConfigError("Nothing is left out.", "Choose a side, or random sets.")
    if (count := retrainings(fractions, sides, draws)) > MOST:
        raise ConfigError(f"This curve takes {count:,} retrainings; {MOST} are the most.", "Choose fewer random sets.")


def retrainings(fractions: Iterable[float], sides: Iterable[str], draws: int) -> int:
    """How many a curve takes at most."""
    return len(list(fractions)) * (len(list(sides)) + draws)


def key(removed: Removed, seed: int, width: int, n: int) -> str:
    """What the retraining is called on disk. One at a time, a random set is the very retraining that a validation of
    this seed and fraction makes, and is shared with it; side by side, last bits depend on the others."""
    if removed.side == RANDOM and width == 1 and round(removed.fraction * n):
        return lds.key(removed.fraction, seed, removed.draw)
    return f"removal-{width}-{files.json_digest(removed.left_out.tolist())[:16]}"


def lacking(record: Manifest, ref: TargetRef, removed: Iterable[Removed], seed: int) -> int:
    """How many retrainings of a curve are still to be done: those of these sets that were done neither alone, nor side
    by side as others of the run were."""
    done, n = trust.retrained(record), len(record.score_sets.row(ref))
    widths = {1, *(int(name.split("-")[1]) for name in done if name.startswith("removal-"))}
    return sum(not any(key(each, seed, width, n) in done for width in widths) for each in removed)


def target_of(record: Manifest, text: str) -> TargetRef:
    """`named`, that a retraining can be asked about: raises `ConfigError` for an uploaded image, too, of which a
    retraining keeps nothing."""
    ref = named(record, text)
    if isinstance(ref.target, UploadedImage):
        raise ConfigError(
            "A retraining is asked about images of the data set, and this target is an uploaded one.",
            "Choose a target of the data set.",
        )
    return ref


def named(record: Manifest, text: str) -> TargetRef:
    """The scored target that a text names: its key, or its name alone, which is then that of its loss if it has one.
    Raises `ConfigError` for one without scores."""
    refs = record.score_sets.targets()
    found = [ref for ref in refs if text == ref.key] or sorted(
        (ref for ref in refs if text == ref.name), key=lambda ref: ref.function != "loss"
    )
    return found[0] if found else record.score_sets.target(text)  # which says those that there are


# -- reports


def reports(record: Manifest, key: str) -> list[dict]:
    """The curves of one target, the newest first; each with its name under `name`. A damaged one is not there."""
    sound, _ = trust.sound(record, trust.REMOVAL)
    return [report for report in reversed(sound) if report["target"] == key]


def curve(report: dict, side: str) -> list[dict]:
    """The sets of one side, few images first."""
    return sorted((each for each in report["sets"] if each["side"] == side), key=lambda each: each["left_out"])


@dataclass(frozen=True)
class Band:
    """Of the random sets of one number: the lowest, the mean and the highest of a figure."""

    left_out: int
    low: float
    mean: float
    high: float


def band(report: dict, figure: str) -> list[Band]:
    """`figure`: a field of the sets that is a number, such as `actual`."""
    by_number: dict[int, list[float]] = {}
    for each in curve(report, RANDOM):
        by_number.setdefault(each["left_out"], []).append(each[figure])
    return [Band(number, min(of), sum(of) / len(of), max(of)) for number, of in by_number.items()]


def table(report: dict) -> "pd.DataFrame":
    """One row a set, for other tools."""
    import pandas as pd

    rows = [
        {
            "target": report["target"],
            "set": each["side"],
            "draw": each["draw"] if each["side"] == RANDOM else None,
            "share": each["fraction"],
            "left_out": each["left_out"],
            "predicted_change": each["predicted"],
            "standard_error": each["standard_error"],
            "actual_change": each["actual"],
            "unit": report["unit"],
            "probability_before": report["before"]["probability"],
            "probability_after": each["after"]["probability"],
            "predictions_changed": each["flipped"],
        }
        for each in report["sets"]
    ]
    return pd.DataFrame(rows)


def predicted_changes(scores_N: np.ndarray, removed: list[Removed]) -> list[float]:
    """To first order, −Σ τ of each set."""
    return [lists.without(scores_N, each.left_out) for each in removed]
