"""Agreement between scores and retraining: the linear datamodeling score, and its uncertainty.

For a target φ and M subsets D_m of the training examples, each left out of one retraining,

    predicted_m = −Σ_{i∈D_m} τ_i         actual_m = φ(w with w_i = 0 on D_m) − φ(w = 1)

both in units of φ. The LDS (arXiv 2303.14186, definition 2.3; here with subsets that are left
out rather than kept) is Spearman's correlation of the two over the subsets. Beside it stand two
figures that see the units: the slope of actual on predicted by least squares, and

    R² = 1 − Σ (actual − predicted)² / Σ (actual − mean)²

of the prediction as it is, with nothing fitted: 1 where it is right, 0 where the mean does as
well, negative where it is worse than that. Intervals are 95 % percentile intervals of the bootstrap over
subsets (and over targets, for the mean). No torch.
"""

import math
from dataclasses import dataclass
from numbers import Real

import numpy as np

from engine.core.schedule import BatchPlan
from engine.errors import ConfigError

RESAMPLES = 2000

PIECE = 1 << 21  # values that are ranked at a time; each takes about 100 bytes on the way

INTERVAL = 2.5, 97.5  # percentiles


@dataclass(frozen=True)
class Agreement:
    """Of one target. NaN where its predictions or its outcomes do not vary."""

    lds: float
    low: float  # of the 95 % interval
    high: float
    slope: float
    r2: float


@dataclass(frozen=True)
class MeanAgreement(Agreement):
    """The mean over the targets that vary. NaN where none does."""

    targets: int  # that count


def subset(n: int, drop: float, seed: int, m: int) -> np.ndarray:
    """The examples that retraining `m` leaves out: int64 [round(drop · n)], sorted, without
    replacement. A pure function of its arguments, so that more subsets begin with the same ones."""
    size = size_of_drop(n, drop)
    return np.sort(np.random.default_rng([seed, size, m]).choice(n, size, replace=False))


def key(drop: float, seed: int, m: int) -> str:
    """What retraining `m` of a fraction and a seed is called, on disk too."""
    return f"{drop:g}-{seed}-{m}"


def size_of_drop(n: int, drop: float) -> int:
    """The number of images that a fraction leaves out; `ConfigError` for one that is no number, or leaves out none or
    all."""
    fraction = isinstance(drop, Real) and not isinstance(drop, bool) and 0 < drop < 1  # NaN is in no range
    size = round(drop * n) if fraction else 0
    if not 0 < size < n:
        shown = f"{drop:g}" if isinstance(drop, float) or fraction else "this"
        raise ConfigError(
            f"Leaving out {shown} of {n:,} training images is not possible.",
            "Choose a fraction that leaves out at least one image and keeps at least one, such as 0.01.",
            {"drop": "must leave out at least one image and keep at least one"},
        )
    return size


def check_left_out(left_out: np.ndarray, labels_N: np.ndarray, plan: BatchPlan, what: str) -> None:
    """Raises `ConfigError` where examples are named that do not exist, or a class or a batch
    would be left empty. `plan` is the batch plan of the training."""
    left_out, n = np.asarray(left_out), len(labels_N)
    if len(left_out) and (left_out.min() < 0 or left_out.max() >= n or len(np.unique(left_out)) < len(left_out)):
        raise ConfigError(
            f"{what} names training images twice, or some that are not there.",
            f"The training images are train:0 to train:{n - 1}.",
        )
    stays_N = np.ones(n, bool)
    stays_N[left_out] = False
    empty = np.setdiff1d(labels_N, labels_N[stays_N])
    if len(empty):
        raise ConfigError(f"{what} leaves no training image of class {empty[0]}.", "Leave out fewer images.")
    # A batch without an example needs a whole batch's worth of them: seldom looked for.
    if len(left_out) >= plan.batch_size:
        for t in range(len(plan)):
            if not stays_N[plan[t]].any():
                raise ConfigError(f"{what} leaves the batch of step {t + 1} empty.", "Leave out fewer images.")


def predicted(scores_KN: np.ndarray, left_out: list[np.ndarray]) -> np.ndarray:
    """[K, M] change of each target if each set of examples is left out, to first order."""
    return np.stack([-np.asarray(scores_KN[:, d], np.float64).sum(1) for d in left_out], axis=1)


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 along the last axis, ties averaged."""
    values = np.asarray(values)
    order = np.argsort(values, axis=-1, kind="stable")
    ascending = np.take_along_axis(values, order, -1)
    at = np.broadcast_to(np.arange(values.shape[-1]), values.shape)
    differs = np.diff(ascending, axis=-1) != 0
    edge = np.ones((*values.shape[:-1], 1), bool)
    first = np.maximum.accumulate(np.where(np.concatenate([edge, differs], -1), at, 0), -1)
    last = np.flip(
        np.minimum.accumulate(np.flip(np.where(np.concatenate([differs, edge], -1), at, at.shape[-1]), -1), -1), -1
    )
    result = np.empty(values.shape)
    np.put_along_axis(result, order, (first + last) / 2 + 1, -1)
    return result


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation along the last axis; NaN where either does not vary."""
    a, b = (r - r.mean(-1, keepdims=True) for r in (ranks(a), ranks(b)))
    scale = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return np.divide((a * b).sum(-1), scale, out=np.full(scale.shape, np.nan), where=scale > 0)


def agreement(predicted_KM: np.ndarray, actual_KM: np.ndarray, seed: int = 0) -> tuple[list[Agreement], MeanAgreement]:
    """For each target, and their mean, whose interval is over subsets and targets both. A target whose predictions or
    outcomes do not vary has no correlation, and does not count in the mean."""
    m = predicted_KM.shape[1]
    lds = spearman(predicted_KM, actual_KM)
    rng = np.random.default_rng(seed)
    drawn_RM = rng.integers(m, size=(RESAMPLES, m))
    resampled = np.stack([_resampled(p, a, drawn_RM) for p, a in zip(predicted_KM, actual_KM, strict=True)])  # [K, R]
    low, high = _interval(resampled)
    fits = np.array([_fit(p, a) for p, a in zip(predicted_KM, actual_KM, strict=True)])  # [K, 2]
    each = [
        Agreement(float(of), float(lowest), float(highest), float(slope), float(r2))
        for of, lowest, highest, (slope, r2) in zip(lds, low, high, fits, strict=True)
    ]
    counts = ~np.isnan(lds)
    if not counts.any():
        return each, MeanAgreement(math.nan, math.nan, math.nan, math.nan, math.nan, targets=0)
    resampled, fits, k = resampled[counts], fits[counts], int(counts.sum())
    targets_RK = rng.integers(k, size=(RESAMPLES, k))
    low, high = _interval(_mean(np.take_along_axis(resampled, targets_RK.T, axis=0)))
    slope, r2 = _mean(fits)
    return each, MeanAgreement(float(lds[counts].mean()), float(low), float(high), float(slope), float(r2), k)


def _mean(values: np.ndarray) -> np.ndarray:
    """Along the first axis, of what is a number; NaN where nothing is: a resample may be of one subset alone."""
    known = ~np.isnan(values)
    count = known.sum(0)
    return np.divide(np.where(known, values, 0).sum(0), count, out=np.full(values.shape[1:], math.nan), where=count > 0)


def _resampled(predicted_M: np.ndarray, actual_M: np.ndarray, drawn_RM: np.ndarray) -> np.ndarray:
    """The correlation of each resample [R], in pieces, so that ten thousand subsets fit into memory."""
    pieces = np.array_split(drawn_RM, max(1, -(-drawn_RM.size // PIECE)))
    return np.concatenate([spearman(predicted_M[d], actual_M[d]) for d in pieces])


def _interval(values: np.ndarray) -> np.ndarray:
    """Percentiles along the last axis, of what is a number: [2, ...]; NaN where nothing is."""
    ends = np.full((2, *values.shape[:-1]), math.nan)
    known = ~np.isnan(values).all(-1)
    if known.any():
        ends[:, known] = np.nanpercentile(values[known], INTERVAL, axis=-1)
    return ends


def _fit(predicted_M: np.ndarray, actual_M: np.ndarray) -> tuple[float, float]:
    """Slope and R²; NaN where either does not vary."""
    x, y = predicted_M - predicted_M.mean(), actual_M - actual_M.mean()
    if not (x**2).sum() or not (y**2).sum():
        return float("nan"), float("nan")
    return float((x * y).sum() / (x**2).sum()), float(1 - ((actual_M - predicted_M) ** 2).sum() / (y**2).sum())
