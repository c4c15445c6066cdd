"""What leaving images out is predicted to do, beside what it did. No torch."""

import math
from dataclasses import dataclass

import numpy as np

from engine.analysis import lists, target_view
from engine.analysis.logits import log_probabilities
from engine.datasets.base import Dataset
from engine.errors import ConfigError
from engine.runs.manifest import Manifest
from engine.targets import FUNCTIONS, target_function
from engine.targets.functions import margins

Figures = dict[str, float | None]
"""Of one target at one model, means over its images: a value of each target function by its name, and `PROBABILITY`.
None where it cannot be told."""

PROBABILITY = "probability"  # of the label asked about


@dataclass(frozen=True)
class WhatIf:
    """One target: at the trained model, as the scores predict it, and retrained (None before that)."""

    key: str
    name: str
    function: str
    change: float | None  # predicted, of the target function; None where labels were changed
    before: dict[str, float]
    predicted: Figures | None
    actual: Figures | None


# -- what if


def check_changes(left_out, relabelled: dict[int, int], dataset: Dataset) -> tuple[np.ndarray, dict[int, int]]:
    """Both, in order and whole numbers; `ConfigError` for images or classes that are not there."""
    n, classes = len(dataset.train_labels), len(dataset.classes)
    left_out = np.asarray(sorted(left_out), np.int64).reshape(-1)
    if len(left_out) > n:
        raise ConfigError(f"{len(left_out):,} images were named, and there are {n:,}.", "Name fewer images.")
    if len(left_out) and (left_out[0] < 0 or left_out[-1] >= n or len(np.unique(left_out)) < len(left_out)):
        raise ConfigError(
            "A training image was named twice, or is not there.", f"The training images are train:0 to train:{n - 1}."
        )
    for index, label in relabelled.items():
        if not 0 <= index < n or not 0 <= label < classes:
            raise ConfigError(
                f"Image train:{index} cannot get label {label}.",
                f"There are {n:,} training images and the classes 0 to {classes - 1}.",
            )
        if index in left_out:
            raise ConfigError(f"Image train:{index} is both left out and relabelled.", "Choose one.")
    if not len(left_out) and not relabelled:
        raise ConfigError("No image is left out, and none relabelled.", "Tick at least one training image.")
    return left_out, {int(i): int(c) for i, c in sorted(relabelled.items())}


def values(logits_SC: np.ndarray, labels_S: np.ndarray, function: str) -> dict[str, float]:
    """At a model's logits on a target's images, with the labels asked about; `function` is the one that was scored."""
    figures = target_view.values(logits_SC, labels_S, function)
    log_p = log_probabilities(logits_SC)[np.arange(len(labels_S)), labels_S]
    return {**figures, PROBABILITY: float(np.exp(log_p).mean())}


def predict(record: Manifest, dataset: Dataset, left_out: np.ndarray) -> list[WhatIf]:
    """What leaving images out will do to each target of the run, to first order: the target function changes by −Σ τ.

    For a target of one image the figures that follow from its margin move with it (`TargetFunction.slope`).
    """
    refs, what_ifs = record.score_sets.targets(), []
    for ref, scores_N in zip(refs, record.score_sets.rows(refs), strict=True):
        logits, labels = target_view.at_target(record, dataset, ref.target)
        change = lists.without(scores_N, left_out)
        before = values(logits, labels, ref.function)
        margin = float(margins(logits, labels)[0]) if len(labels) == 1 else None
        after = _moved(before, ref.function, change, margin)
        what_ifs.append(WhatIf(ref.key, ref.name, ref.function, change, before, after, None))
    return what_ifs


def _moved(before: dict[str, float], function: str, change: float, margin: float | None) -> Figures:
    """The figures once `function` has changed; `margin` of the one image, None for a set of several, of which no
    other figure follows."""
    after: Figures = {**dict.fromkeys(before), function: before[function] + change}
    slope = target_function(function).slope
    if margin is None or slope is None:
        return after
    rise = change / (slope(margin) or -1e-300)  # of the margin; a loss whose last digit is gone can only rise
    for name, other in FUNCTIONS.items():
        if name != function and other.slope is not None:
            after[name] = before[name] + other.slope(margin) * rise
    moved = margin + rise
    after[PROBABILITY] = 1 / (1 + math.exp(-moved)) if moved > -700 else 0.0
    return after
