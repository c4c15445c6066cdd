"""Two runs of one data set side by side: do their scores agree, and which images moved? No torch."""

import contextlib
from dataclasses import dataclass

import numpy as np

from engine import config, lds, trust
from engine.errors import ConfigError, ReplayError
from engine.runs import Run

TOP = 50            # images of the lists whose overlap is told
STRONG, OTHERS = 500, 2000      # points of a scatter: the strongest of either run, and at random


@dataclass(frozen=True)
class Agreement:
    """Of one target that both runs have."""

    key: str
    spearman: float      # of the scores of all N training images; NaN where either does not vary
    overlap: float       # share of the `TOP` images of largest |score| that is the same


def of_the_same_data(run: Run, others: list[Run]) -> list[Run]:
    """Those of `others` that have scores on the same data; a damaged one is none."""
    found = []
    for other in others:
        with contextlib.suppress(ReplayError):
            if other.id != run.id and other.manifest.get("data_fingerprint") == run.manifest.get("data_fingerprint") and other.targets():
                found.append(other)
    return found


def common_targets(a: Run, b: Run) -> list[str]:
    """Keys of the targets that both runs have; `ConfigError` where they are of different data."""
    if a.manifest.get("data_fingerprint") != b.manifest.get("data_fingerprint"):
        raise ConfigError(f"The runs {a.id} and {b.id} are of different data: {a.config.dataset} and {b.config.dataset}.",
                          "Choose two runs of one data set: their images must be the same to be compared.")
    others = {t.key for t in b.targets()}
    return [t.key for t in a.targets() if t.key in others]


def scores_of(run: Run, key: str) -> np.ndarray:
    """float32 [N], of one target."""
    target = run.target(key)
    return run.scores(target.score_set)[target.row]


def agreement(a_N: np.ndarray, b_N: np.ndarray, key: str) -> Agreement:
    same = np.intersect1d(_strongest(a_N, TOP), _strongest(b_N, TOP))
    return Agreement(key, float(lds.spearman(a_N, b_N)), len(same) / min(TOP, len(a_N)))


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


def differences(a: Run, b: Run) -> list[tuple[str, object, object]]:
    """The settings that differ, by their dotted names."""
    first, second = a.config, b.config
    names = [*(f"recipe.{name}" for name in vars(first.recipe)), *(name for name in vars(first) if name != "recipe")]
    pairs = [(name, config.get(first, name), config.get(second, name)) for name in names]
    return [pair for pair in pairs if pair[1] != pair[2]]


def measured_lds(run: Run) -> float | None:
    return trust.verdict(run).lds
