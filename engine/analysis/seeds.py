"""One recipe over several seeds: which training images matter in any training of it, and which in one. No torch.

A score is exact for the training that it was made of. Of S trainings that differ in nothing but their seed, each with
scores τ_s of the same target, and of training image i:

    mean_i   = Σ_s τ_s,i / S                          what the image does to the target in a training of this recipe
    spread_i = √(Σ_s (τ_s,i − mean_i)² / (S − 1))     how much that differs from training to training
    error_i  = spread_i / √S                          the standard error of the mean

all in units of the target function. Beside them stand two counts: in how many trainings the score has the sign of the
mean, and in how many the image is among the `TOP` of largest |score|.

How far the mean foretells *other* trainings of the recipe is measured as the LDS (`engine.analysis.lds`), with subsets
that trainings of a seed that is in none of the averaged ones were repeated without: `foretold`.

When not to use a mean: to say why this very model answers as it does. Its own scores say that, and exactly.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from engine.analysis import compare, lds, trust
from engine.analysis.compare import TOP
from engine.analysis.overlap import OverRuns, over_runs
from engine.datasets.base import Dataset
from engine.errors import ConfigError, ReplayError
from engine.runs import notes
from engine.runs.manifest import Manifest
from engine.runs.run import Run

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 1000  # of the interval of an LDS

REMEDY = (
    "Repeat the run with other seeds (python -m engine repeat RUN), or choose runs that differ in their seed alone."
)


# -- trainings that may be averaged


def check_alike(records: Sequence[Manifest]) -> None:
    """Raises `ConfigError` unless these are two or more trainings that differ in their seed, and in nothing else."""
    if len(records) < 2:
        raise ConfigError("Scores are averaged over two seeds or more, and this is one training.", REMEDY)
    first, *others = records
    for other in others:
        if why := unlike(first, other):
            raise ConfigError(f"Runs {first.run_id} and {other.run_id} are not to be averaged: {why}.", REMEDY)
    by_seed: dict[int, Manifest] = {}
    for record in records:
        twin = by_seed.setdefault(record.config.recipe.seed, record)
        if twin is not record:
            raise ConfigError(
                f"Runs {twin.run_id} and {record.run_id} have the same seed, {record.config.recipe.seed}: the mean "
                "would count one training twice.",
                "Leave one of them out.",
            )


def unlike(a: Manifest, b: Manifest) -> str:
    """What two trainings differ in beside their seed, as the end of a sentence; "" where in nothing."""
    if compare.other_data(a, b):
        return "they have other data"
    if None not in (a.model_sources, b.model_sources) and a.model_sources != b.model_sources:
        return "the code of their model is another"
    names = [name for name, *_ in compare.differences(a, b) if name not in ("recipe.seed", "dataset")]
    return f"they differ in {', '.join(names)}" if names else ""


def alike(record: Manifest, others: Iterable[Run]) -> list[Manifest]:
    """The run, and of `others` those with scores that may be averaged with it, by their seed. Of several of one seed,
    that of the run's own group, else the first. What cannot be read is passed over: other pages name it."""
    group = notes.group_of(Run(record.folder.parent, record.folder.name))
    own_seed = record.config.recipe.seed
    by_seed: dict[int, Manifest] = {}
    for run in others:
        if run.id == record.folder.name:
            continue
        try:
            other = run.manifest()
            seed = other.config.recipe.seed
            if seed == own_seed or unlike(record, other) or not other.score_sets.targets():
                continue
        except ReplayError:
            continue
        if seed not in by_seed or (group is not None and notes.group_of(run) == group):
            by_seed[seed] = other
    return [record, *(by_seed[seed] for seed in sorted(by_seed))]


# -- the scores of one target


@dataclass(frozen=True, eq=False)
class OverSeeds(OverRuns):
    """The scores of one target in S trainings that differ in their seed."""

    seeds: tuple[int, ...] = ()

    @cached_property
    def same_sign_N(self) -> np.ndarray:
        """In how many trainings the score has the sign of the mean: int64 [N]; none where the mean is 0."""
        return ((np.sign(self.scores_SN) == np.sign(self.mean_N)) & (self.mean_N != 0)).sum(0)

    @cached_property
    def strong_SN(self) -> np.ndarray:
        """Whether the image is among the `TOP` of largest |score| of each training: bool [S, N]."""
        strong_SN = np.zeros(self.scores_SN.shape, bool)
        for row, scores_N in zip(strong_SN, self.scores_SN, strict=True):
            row[compare.strongest(scores_N, TOP)] = True
        return strong_SN

    @property
    def strong_N(self) -> np.ndarray:
        """In how many trainings it is: int64 [N]."""
        return self.strong_SN.sum(0)

    def strongest(self, k: int) -> np.ndarray:
        """The k images of largest |mean|: int64 [k]."""
        top = compare.strongest(self.mean_N, k)
        return top[np.lexsort((top, -np.abs(self.mean_N[top])))]


def over_seeds(records: Sequence[Manifest]) -> list[OverSeeds]:
    """The targets of the first training that others have too, in its order, each over those trainings that have it: of
    a group that is half done, or explained further since, what there is. A target is in common where it asks about the
    same images, which of a confusion need not be so.

    Raises `ConfigError` where the trainings are not alike (`check_alike`), or share no target.
    """
    check_alike(records)
    by_run = {record.folder.name: record.config.recipe.seed for record in records}
    found = over_runs(records)
    if not found:
        raise ConfigError(
            f"Runs {', '.join(record.run_id for record in records)} have no target in common, so that there is nothing "
            "to average.",
            "Explain the same targets in all of them, or repeat one of them with the seeds of the others.",
        )
    return [
        OverSeeds(of.target, of.runs, of.rows, of.source, tuple(by_run[run_id] for run_id in of.runs)) for of in found
    ]


def table(of: OverSeeds, dataset: Dataset) -> "pd.DataFrame":
    """Every training image with its mean over seeds, its spread, both counts, and its score in each training."""
    import pandas as pd

    columns = {
        "image": np.arange(len(of.mean_N)),
        "label": [dataset.classes[label] for label in dataset.train_labels],
        "mean": of.mean_N,
        "standard_error": of.error_N,
        "spread": of.spread_N,
        "same_sign": of.same_sign_N,
        "strongest_in": of.strong_N,
        **{f"seed_{seed}": scores_N for seed, scores_N in zip(of.seeds, of.scores_SN, strict=True)},
    }
    frame = pd.DataFrame(columns)
    return frame.sort_values("mean", key=lambda mean: -mean.abs(), kind="stable", ignore_index=True)


# -- do they foretell other trainings?


@dataclass(frozen=True)
class Foretold:
    """LDS of scores for retrainings of other seeds: mean over targets and ways to divide the trainings, with the 95 %
    interval of the bootstrap over subsets and targets. NaN where nothing varied."""

    lds: float
    low: float
    high: float
    averaged: int  # trainings whose scores are averaged
    retrained: int  # trainings whose changes are averaged
    targets: int
    subsets: int


def foretold(predicted_GKM: np.ndarray, actual_GKM: np.ndarray, averaged: int, retrained: int) -> Foretold:
    """Of G ways to divide trainings into those that are averaged and those that are retrained, K targets and M subsets.
    All of a subset's, and of a target's, values are drawn together: they are no independent observations."""
    _, k, m = predicted_GKM.shape
    rng = np.random.default_rng(0)
    whole_K = _mean(lds.spearman(predicted_GKM, actual_GKM), 0)  # [K]
    drawn_RM = rng.integers(m, size=(RESAMPLES, m))
    resampled_KR = np.stack(
        [
            _mean(np.stack([lds.spearman(p[drawn_RM], a[drawn_RM]) for p, a in zip(p_GM, a_GM, strict=True)]), 0)
            for p_GM, a_GM in zip(predicted_GKM.swapaxes(0, 1), actual_GKM.swapaxes(0, 1), strict=True)
        ]
    )
    targets_KR = rng.integers(k, size=(k, RESAMPLES))
    means_R = _mean(np.take_along_axis(resampled_KR, targets_KR, axis=0), 0)
    known = means_R[~np.isnan(means_R)]
    low, high = np.percentile(known, lds.INTERVAL) if len(known) else (math.nan, math.nan)
    return Foretold(float(_mean(whole_K, 0)), float(low), float(high), averaged, retrained, k, m)


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Of what is a number; NaN where nothing is."""
    known = ~np.isnan(values)
    count = known.sum(axis)
    total = np.where(known, values, 0).sum(axis)
    return np.divide(total, count, out=np.full(np.shape(total), math.nan), where=count > 0)


@dataclass(frozen=True, eq=False)
class LeftOut:
    """One target without the same images in trainings of S seeds: the changes of its function as each training's own
    scores say (`predicted_S`) and as its retraining gave them (`actual_S`), float64 [S], in units of the function."""

    seeds: tuple[int, ...]
    predicted_S: np.ndarray
    actual_S: np.ndarray

    def mean_and_spread(self, what: str) -> tuple[float, float]:
        """Of "predicted" or "actual": the mean, and the standard deviation over seeds, of two or more."""
        values_S = self.predicted_S if what == "predicted" else self.actual_S
        return float(values_S.mean()), float(values_S.std(ddof=1))


def left_out(records: Sequence[Manifest], images: Sequence[int], key: str) -> LeftOut:
    """Of those of the trainings that were retrained without exactly these images, the newest retraining that has the
    target. What differs between trainings is more than chance of one retraining: each also has scores of its own."""
    found: dict[int, tuple[float, float]] = {}
    for record in records:
        for report in trust.what_ifs(record):
            target = _by_key(report).get(key)
            if report["left_out"] != sorted(images) or report["relabelled"] or target is None:
                continue
            if target["change"] is not None and target["actual"] is not None:
                function = target["function"]
                actual = target["actual"][function] - target["before"][function]
                found[record.config.recipe.seed] = target["change"], actual
    rows = np.array(list(found.values()), np.float64).reshape(-1, 2)
    return LeftOut(tuple(found), *rows.T)


@dataclass(frozen=True)
class ForOthers:
    """What the trainings of a group foretell of each other: the scores of one, and the mean of all others, each for
    retrainings of a training that is not among them. `drop`: the fraction that was left out."""

    one: Foretold
    mean: Foretold
    drop: float


def for_others(records: Sequence[Manifest]) -> ForOthers | None:
    """Of the trainings that were validated with subsets in common (the same fraction and seed of subsets), of the
    smallest fraction; None where fewer than two were."""
    best: ForOthers | None = None
    for reports in _in_common(records):
        keys = [t["key"] for t in reports[0]["targets"] if all(t["key"] in _by_key(r) for r in reports)]
        m = min(report["subsets"] for report in reports)
        predicted, actual = (
            np.array([[_by_key(report)[key][what][:m] for key in keys] for report in reports])
            for what in ("predicted", "actual")
        )  # [S, K, M]
        if keys and (best is None or reports[0]["drop"] < best.drop):
            best = _left_one_out(predicted, actual, reports[0]["drop"])
    return best


def _left_one_out(predicted_SKM: np.ndarray, actual_SKM: np.ndarray, drop: float) -> ForOthers:
    s = len(predicted_SKM)
    one = foretold(predicted_SKM, np.roll(actual_SKM, 1, axis=0), 1, 1)  # each for the training after it
    others = np.stack([np.delete(predicted_SKM, h, axis=0).mean(0) for h in range(s)])  # a mean of scores foretells
    return ForOthers(one, foretold(others, actual_SKM, s - 1, 1), drop)  # the mean of what they foretell


def _in_common(records: Sequence[Manifest]) -> Iterable[list[dict]]:
    """Reports of one function with the same subsets, each of another training, two or more."""
    by_plan: dict[tuple, list[dict]] = {}
    for record in records:
        for report in trust.sound(record, trust.LDS)[0]:
            by_plan.setdefault((report["drop"], report["seed"], report["function"]), []).append(report)
    return [reports for reports in by_plan.values() if len(reports) > 1]


def _by_key(report: dict) -> dict[str, dict]:
    return {target["key"]: target for target in report["targets"]}


def in_words(of: ForOthers) -> str:
    """What they say, in sentences."""
    mean, one = of.mean, of.one
    if math.isnan(mean.lds):
        return "No target changed in a way that could be ranked, so that nothing is known of other trainings."
    share = f"{100 * of.drop:g} %"
    many = "the scores of the other one" if mean.averaged == 1 else f"the mean of the other {mean.averaged}"
    beside = "" if mean.averaged == 1 else f" The scores of a single training reach {trust.figure(one.lds)}."
    return (
        f"How well this foretells another training of the recipe: a training whose scores are not in the mean was "
        f"repeated without {mean.subsets} random subsets of {share} of the images, and {many} ordered what happened "
        f"with a rank correlation of {trust.figure(mean.lds)} (LDS for other seeds; 95 % interval "
        f"{trust.figure(mean.low)} to {trust.figure(mean.high)}; 1 would be perfect).{beside}"
    )
