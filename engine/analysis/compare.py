"""Two runs of one data set side by side: do their scores agree, and which images moved? No torch."""

from dataclasses import dataclass

import numpy as np

from engine import config, datasets
from engine.analysis import lds, trust
from engine.errors import ConfigError
from engine.runs.manifest import Manifest
from engine.runs.run import Summary
from engine.runs.scores import TargetRef
from engine.targets import Target

TOP = 50  # images of the lists whose overlap is told

STRONG, OTHERS = 500, 2000  # points of a scatter: the strongest of either run, and at random


@dataclass(frozen=True)
class Common:
    """A target that both runs have, as the first of them names it, with its scores in both: float32 [N],
    memory-mapped. `source` says by the files' SHA-256 what they are."""

    target: TargetRef
    a_N: np.ndarray
    b_N: np.ndarray
    source: tuple[str, int, str, int]


@dataclass(frozen=True)
class Agreement:
    spearman: float  # of the scores of all N training images; NaN where either does not vary
    overlap: float  # share of the `TOP` images of largest |score| that is the same


def of_the_same_data(record: Manifest, others: list[Summary]) -> list[Summary]:
    """Those of `others` that have scores on the same data as the run; damaged ones cannot be known to."""
    return [
        other
        for other in others
        if other.scored and other.id != record.folder.name and other.data_fingerprint == record.data_fingerprint
    ]


def check(a: Manifest, b: Manifest) -> None:
    """Raises `ConfigError` unless both are other runs with scores on the same data."""
    if a.folder == b.folder:
        raise ConfigError(f"The link compares run {a.run_id} with itself.", "Choose another run beside it.")
    for record in (a, b):
        if not record.score_sets.targets():
            raise ConfigError(
                f"Run {record.run_id} has no scores to compare; it is {record.status}.",
                "Replay it for some targets, or choose another run.",
            )
    if a.data_fingerprint != b.data_fingerprint:
        raise ConfigError(
            f"The runs {a.run_id} and {b.run_id} are of different data: {a.config.dataset} and {b.config.dataset}.",
            "Choose two runs of the same images and labels.",
        )


def common(a: Manifest, b: Manifest) -> list[Common]:
    """The targets that both runs have, by name and function, in the order of `a`. A confusion is in common where both
    models make it on the same images."""
    refs_b = {target.key: target for target in b.score_sets.targets()}
    shared = []
    for target in a.score_sets.targets():
        other = refs_b.get(target.key)
        if other is not None and (not target.target.of_the_model or _same_images(a, b, target.target)):
            sha_a, sha_b = a.score_sets.sha256(target.score_set), b.score_sets.sha256(other.score_set)
            source = (sha_a, target.row, sha_b, other.row)
            shared.append(Common(target, a.score_sets.row(target), b.score_sets.row(other), source))
    return shared


def _same_images(a: Manifest, b: Manifest, target: Target) -> bool:
    dataset = datasets.load(a.config.dataset)
    of_a, of_b = (target.resolve(dataset, record.test_logits).indices for record in (a, b))
    return np.array_equal(of_a, of_b)


def median(values: list[float]) -> float | None:
    """Of those that are numbers; None where none is."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.median(known)) if known else None


def agreement(a_N: np.ndarray, b_N: np.ndarray) -> Agreement:
    same = np.intersect1d(_strongest(a_N, TOP), _strongest(b_N, TOP))
    return Agreement(float(lds.spearman(a_N, b_N)), len(same) / min(TOP, len(a_N)))


def moved(a_N: np.ndarray, b_N: np.ndarray, k: int) -> np.ndarray:
    """The k images whose scores differ most, each run's scores in units of their standard deviation: int64 [k]."""
    scaled = [np.asarray(s, np.float64) / max(float(np.std(s, dtype=np.float64)), 1e-300) for s in (a_N, b_N)]
    distance = np.abs(scaled[0] - scaled[1])
    k = min(k, len(distance))
    top = np.argpartition(distance, -k)[-k:]
    return top[np.lexsort((top, -distance[top]))]


def drawn(a_N: np.ndarray, b_N: np.ndarray) -> np.ndarray:
    """Images worth a point in a scatter: the strongest of either run, and random others: int64, sorted."""
    rest = np.random.default_rng(0).choice(len(a_N), min(OTHERS, len(a_N)), replace=False)
    return np.unique(np.concatenate([_strongest(a_N, STRONG), _strongest(b_N, STRONG), rest]))


def _strongest(scores_N: np.ndarray, k: int) -> np.ndarray:
    k = min(k, len(scores_N))
    return np.argpartition(np.abs(scores_N), -k)[-k:]


def differences(a: Manifest, b: Manifest) -> list[tuple[str, object, object]]:
    """The settings that differ among those that decide a training, by their dotted names."""
    first, second = a.config, b.config
    names = [
        *(f"recipe.{name}" for name in vars(first.recipe)),
        *(name for name in config.TRAINING if name != "recipe"),
    ]
    pairs = [(name, config.get(first, name), config.get(second, name)) for name in names]
    return [pair for pair in pairs if pair[1] != pair[2]]


def measured_lds(record: Manifest) -> float | None:
    return trust.verdict(record).lds
