"""Which training images stand on the lists of several runs, and how many chance alone would put there. No torch.

Each of S runs on the same N training images has a list for a target: its k most helpful images, or its k most harmful
ones. Image i stands on c_i of the S lists. Were each list k_s of the N images at random, and none knew of another, then
c_i would be a sum of S independent throws, of probabilities k_s / N, and

    E |{i : c_i = c}| = N · P(c_i = c)                                   of each count c: `by_chance`
    P(m_s = j | m_{s−1} = m) = C(m, j) C(N − m, k_s − j) / C(N, k_s)     of m, the images on the first s lists

The second line is a hypergeometric draw; S of them in a chain give the exact chance that at least so many images stand
on *all* lists: `chance_of_all`.

Chance is a low bar. Two trainings see the same images of the same target, so that more than chance is to be expected
even where they agree on little; what the figures tell apart is a list that any training of the recipe would give from
one that this training alone gave. An image that is on one list alone may well have done in that training what its score
says: it is exact there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from engine.analysis import compare, lists
from engine.analysis.ranking import rank
from engine.datasets.base import Dataset
from engine.errors import ConfigError
from engine.runs.manifest import Manifest
from engine.runs.scores import TargetRef

if TYPE_CHECKING:
    import pandas as pd

SIDES = "helpful", "harmful"

SIZES = (12, 24, 50, 100, 200)  # lengths of lists that are offered

PROPOSED = 50

BANDS = "all", "most", "some", "one"
"""On how many lists an image stands: all of them, more than half, two or more, or one alone."""


# -- the scores of one target in several runs


@dataclass(frozen=True, eq=False)
class OverRuns:
    """The scores of one target, as the first run names it, in S runs: `rows` float32 [N] each, memory-mapped. `source`
    says by SHA-256 what they are."""

    target: TargetRef
    runs: tuple[str, ...]
    rows: tuple[np.ndarray, ...]
    source: tuple[str | int, ...] = ()

    @cached_property
    def scores_SN(self) -> np.ndarray:
        """float32 [S, N]."""
        return np.stack(self.rows)

    @cached_property
    def mean_N(self) -> np.ndarray:
        """float64 [N]."""
        return self.scores_SN.mean(0, dtype=np.float64)

    @cached_property
    def spread_N(self) -> np.ndarray:
        """Standard deviation over runs: float64 [N]; NaN of one run."""
        if len(self.rows) < 2:
            return np.full(self.scores_SN.shape[1], math.nan)
        return self.scores_SN.std(0, dtype=np.float64, ddof=1)

    @property
    def error_N(self) -> np.ndarray:
        """Standard error of the mean: float64 [N]."""
        return self.spread_N / math.sqrt(len(self.rows))


def over_runs(records: Sequence[Manifest]) -> list[OverRuns]:
    """The targets of the first run that others have too, in its order, each over those runs that have it. A target is
    in common where it asks about the same images, which of a confusion need not be so. None in common: an empty list.

    Raises `ConfigError` for fewer than two runs, and for runs of other data: there image 17 is another image.
    """
    if len(records) < 2:
        raise ConfigError("Lists are held against each other over two runs or more.", "Choose another run beside it.")
    first, *others = records
    for other in others:
        if compare.other_data(first, other):
            raise ConfigError(
                f"Runs {first.run_id} and {other.run_id} have other data, so that their images are not the same.",
                "Choose runs of one data set.",
            )
    commons = [{both.target.key: both for both in compare.common(first, other)} for other in others]
    found = []
    for ref in first.score_sets.targets():
        having = [(other, of[ref.key]) for other, of in zip(others, commons, strict=True) if ref.key in of]
        if having:
            found.append(
                OverRuns(
                    ref,
                    tuple(record.folder.name for record in (first, *(other for other, _ in having))),
                    (first.score_sets.row(ref), *(both.b_N for _, both in having)),
                    tuple(part for _, both in having for part in both.source),
                )
            )
    return found


# -- their lists


@dataclass(frozen=True, eq=False)
class Overlap:
    """The lists of S runs for one side of one target. `on_SN`: whether an image stands on a run's list, bool [S, N]. A
    list is shorter than `k` where fewer images have an effect on that side."""

    side: str  # of `SIDES`
    k: int
    on_SN: np.ndarray
    strength_N: np.ndarray  # mean |score| over the lists it stands on, in standard deviations of each run: float64 [N]

    @cached_property
    def counts_N(self) -> np.ndarray:
        """On how many lists each image stands: int64 [N]."""
        return self.on_SN.sum(0)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Images on each list."""
        return tuple(self.on_SN.sum(1).tolist())

    def counts(self, band: str) -> range:
        """Which counts make a band; empty where S leaves none between the others."""
        s = len(self.on_SN)
        most = s // 2 + 1  # more than half
        ranges = {"all": (s, s + 1), "most": (most, s), "some": (2, min(most, s)), "one": (1, 2)}
        return range(*ranges[band])

    def images(self, band: str) -> np.ndarray:
        """Images on so many lists, those on more lists first, then by strength: int64."""
        images = np.flatnonzero(np.isin(self.counts_N, list(self.counts(band))))
        return images[np.lexsort((images, -self.strength_N[images], -self.counts_N[images]))]

    def expected(self, band: str) -> float:
        """How many images chance alone would give the band."""
        by_count = by_chance(self.on_SN.shape[1], self.sizes)
        return float(sum(by_count[c] for c in self.counts(band)))

    @property
    def chance(self) -> float:
        """That as many images as here, or more, would stand on all lists."""
        return chance_of_all(self.on_SN.shape[1], self.sizes, len(self.images("all")))

    def only_on(self, image: int) -> int:
        """The number, from 0, of the run that an image of «one» is on the list of."""
        return int(np.flatnonzero(self.on_SN[:, image])[0])


def overlap(of: OverRuns, side: str, k: int) -> Overlap:
    """The `k` most helpful, or most harmful, of each run, held against each other."""
    on_SN, sum_N = np.zeros((len(of.rows), len(of.rows[0])), bool), np.zeros(len(of.rows[0]))
    for on_N, scores_N in zip(on_SN, of.rows, strict=True):
        on_N[getattr(rank(scores_N, of.target.function, k), side)] = True
        sum_N[on_N] += np.abs(scores_N[on_N], dtype=np.float64) / (float(np.std(scores_N, dtype=np.float64)) or 1.0)
    return Overlap(side, k, on_SN, sum_N / np.maximum(1, on_SN.sum(0)))


def table(of: OverRuns, k: int, dataset: Dataset) -> "pd.DataFrame":
    """Every training image: on how many lists of either side it stands, its mean, and its score in each run."""
    import pandas as pd

    images = np.arange(len(of.rows[0]))
    return pd.DataFrame(
        {
            "target": of.target.key,
            "image": images,
            **lists.files_of(dataset, images),
            "label": [dataset.classes[label] for label in dataset.train_labels],
            **{f"on_{side}_lists": overlap(of, side, k).counts_N for side in SIDES},
            "of_runs": len(of.rows),
            "mean": of.mean_N,
            "standard_error": of.error_N,
            **{f"score_{run_id}": scores_N for run_id, scores_N in zip(of.runs, of.rows, strict=True)},
        }
    ).sort_values("mean", key=lambda mean: -mean.abs(), kind="stable", ignore_index=True)


def in_sentences(of: OverRuns, k: int, what: str) -> list[str]:
    """«Of the 50 most helpful images of each of 4 runs, 7 are in all (by chance 0.00), …», one a side."""
    said = []
    for side in SIDES:
        found = overlap(of, side, k)
        bands = [
            f"{len(found.images(band)):,} in {band if band != 'one' else 'one alone'} (by chance "
            f"{found.expected(band):.3g})"
            for band in BANDS
            if len(found.counts(band))
        ]
        said.append(f"of the {k} most {side} images of each of {len(of.rows)} {what}: {', '.join(bands)}")
    return said


# -- what chance would give


def by_chance(n: int, sizes: Sequence[int]) -> np.ndarray:
    """How many of `n` images are expected on exactly 0, 1, …, S of S random lists of these sizes: float64 [S + 1]."""
    shares = np.ones(1)
    for size in sizes:
        shares = np.convolve(shares, [1 - size / n, size / n])
    return n * shares


def chance_of_all(n: int, sizes: Sequence[int], count: int) -> float:
    """The probability that at least `count` of `n` images stand on all of the random lists."""
    first, *others = sizes
    p_m = np.zeros(first + 1)  # of the images on all lists so far
    p_m[first] = 1.0
    for size in others:
        after = np.zeros(min(size, len(p_m) - 1) + 1)
        for m in np.flatnonzero(p_m):
            after[: min(size, m) + 1] += p_m[m] * _hypergeometric(n, int(m), size)[: len(after)]
        p_m = after
    return float(min(1.0, p_m[count:].sum())) if count else 1.0


def _hypergeometric(n: int, marked: int, drawn: int) -> np.ndarray:
    """Of `drawn` images of `n`, how many are among the `marked`: P of 0, 1, …, min(marked, drawn)."""
    log = _log_factorials(n)
    j = np.arange(min(marked, drawn) + 1)
    possible = drawn - j <= n - marked
    rest = np.where(possible, drawn - j, 0)  # of those that are not marked
    logs = (
        (log[marked] - log[j] - log[marked - j])
        + (log[n - marked] - log[rest] - log[n - marked - rest])
        - (log[n] - log[drawn] - log[n - drawn])
    )
    return np.where(possible, np.exp(logs), 0.0)


@lru_cache(maxsize=4)
def _log_factorials(n: int) -> np.ndarray:
    """log i! of i = 0 … n: float64 [n + 1]."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1, dtype=np.float64)))])
