"""Test images filtered and ordered, and the confusion matrix. No torch."""

from dataclasses import dataclass

import numpy as np

from engine.analysis.logits import judged

# -- the test images


ORDERS = ("wrong first", "least sure", "most sure", "index")

BY_GRADIENT = ("largest gradient", "smallest gradient")  # two more, where the gradient norms are known


@dataclass(frozen=True)
class TestFilter:
    """Which test images to show; the limits of the confidence, the probability of the predicted class, are included."""

    wrong: bool = False  # misclassified ones alone
    true: int | None = None
    predicted: int | None = None
    low: float = 0.0
    high: float = 1.0


def test_images(
    logits: np.ndarray, labels: np.ndarray, chosen: TestFilter, order: str, norms: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the test images that the filter keeps, in one of `ORDERS`, or with their gradient `norms` [N] of
    `BY_GRADIENT`, int64 [M]; and of every test image the
    predicted class int64 [N] and the confidence float64 [N]. "wrong first": the most confident mistakes first."""
    _, predicted, best = judged(logits, labels)
    confidence = np.exp(best)
    mistaken = predicted != labels
    kept = (confidence >= chosen.low) & (confidence <= chosen.high) & (mistaken | (not chosen.wrong))
    for asked, values in ((chosen.true, labels), (chosen.predicted, predicted)):
        if asked is not None:
            kept &= values == asked
    keys = {
        "wrong first": np.where(mistaken, -confidence, 1 + confidence),
        "least sure": confidence,
        "most sure": -confidence,
        "index": np.arange(len(labels)),
    }
    if norms is not None:
        keys |= dict(zip(BY_GRADIENT, (-norms, norms), strict=True))
    found = np.flatnonzero(kept)
    return found[np.argsort(keys[order][found], kind="stable")], predicted, confidence


def confusions(predicted: np.ndarray, labels: np.ndarray, most: int) -> list[tuple[int, int, int]]:
    """True class, predicted class and number of test images of the `most` frequent mistakes; without the matrix, which
    many classes make too large."""
    wrong = predicted != labels
    pairs, counts = np.unique(np.stack([labels[wrong], predicted[wrong]], 1), axis=0, return_counts=True)
    first = np.argsort(-counts, kind="stable")[:most]
    return [
        (int(true), int(taken_for), int(n)) for (true, taken_for), n in zip(pairs[first], counts[first], strict=True)
    ]


def confusion(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """int64 [true, predicted], counts of test images."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)
