"""Class on class: what each class of training images did to each group of targets. No torch."""

import numpy as np

from engine.datasets.base import Dataset
from engine.runs.manifest import Manifest
from engine.runs.scores import TargetRef
from engine.targets import FUNCTIONS

# -- class on class


def groups(record: Manifest, dataset: Dataset, function: str) -> dict[str, list[TargetRef]]:
    """The run's targets of one function by what they ask about: single test images together by their class, then
    every set on its own; each kind in the order of the classes, so that like stands above like in the matrix."""
    by_place: dict[tuple[tuple[int, int], str], list[TargetRef]] = {}
    for ref in record.score_sets.targets():
        if ref.function == function:
            by_place.setdefault(ref.target.group(dataset), []).append(ref)
    return {title: by_place[place, title] for place, title in sorted(by_place)}


def functions(record: Manifest) -> list[str]:
    """Those that the run has scores of, in the order of the table; functions of classes behind it."""
    names = dict.fromkeys(ref.function for ref in record.score_sets.targets())
    return [*(name for name in FUNCTIONS if name in names), *(name for name in names if name not in FUNCTIONS)]


def group_scores(record: Manifest, targets: list[TargetRef]) -> np.ndarray:
    """The mean of some targets' scores, float64 [N]: those of their mean, for scores are linear in the target. Added up
    row by row: thousands of targets at once would be gigabytes."""
    first, *others = record.score_sets.rows(targets)
    total_N = np.array(first, np.float64)
    for row_N in others:
        total_N += row_N
    return total_N / len(targets)


def class_matrix(record: Manifest, dataset: Dataset, function: str) -> tuple[list[str], np.ndarray]:
    """The groups' titles, and [groups, classes]: the sum of the training images' scores by their label.

    Leaving a class out is no small change, so minus a sum is no prediction of that: it tells the direction
    in which the class pulled the target.
    """
    found = groups(record, dataset, function)
    rows = [
        np.bincount(dataset.train_labels, group_scores(record, targets), len(dataset.classes))
        for targets in found.values()
    ]
    return list(found), np.array(rows).reshape(len(rows), len(dataset.classes))
