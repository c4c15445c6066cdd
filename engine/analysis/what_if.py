"""What leaving images out is predicted to do, beside what it did. No torch."""

import math
from dataclasses import dataclass

import numpy as np

from engine.analysis import logits as logit_maths
from engine.analysis import target_view
from engine.datasets.base import Dataset
from engine.errors import ConfigError
from engine.runs import run as runs


@dataclass(frozen=True)
class Values:
    """Of one target at one model: means over its test images. None where it cannot be told."""

    loss: float | None  # nats
    margin: float | None  # logits
    probability: float | None  # of the true label


@dataclass(frozen=True)
class WhatIf:
    """One target: at the trained model, as the scores predict it, and retrained (None before that)."""

    key: str
    name: str
    function: str
    change: float | None  # predicted, of the target function; None where labels were changed
    before: Values
    predicted: Values | None
    actual: Values | None


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


def values(logits: np.ndarray, labels: np.ndarray) -> Values:
    """At a model's logits [S, C] on a target's images, whose labels are int64 [S]."""
    right = logit_maths.log_probabilities(logits)[np.arange(len(labels)), labels]
    return Values(float(-right.mean()), float(logit_maths.margins(right).mean()), float(np.exp(right).mean()))


def predict(run: runs.Run, dataset: Dataset, left_out: np.ndarray) -> list[WhatIf]:
    """What leaving images out will do to each target of the run, to first order.

    The target function changes by −Σ τ. For a target of one image the other figures follow, for
    margin = −loss − log(1 − p) and p = exp(−loss): d margin / d loss = −1 / (1 − p).
    """
    targets = run.targets()
    sets = {name: run.scores(name) for name in {t.score_set for t in targets}}  # verified once, not once a target
    found = []
    for target in targets:
        logits, labels = target_view.at_target(run, dataset, target.name)
        before = values(logits, labels)
        change = float(-np.asarray(sets[target.score_set][target.row][left_out], np.float64).sum())
        found.append(
            WhatIf(
                target.key,
                target.name,
                target.function,
                change,
                before,
                _moved(before, target.function, change, len(labels) == 1),
                None,
            )
        )
    return found


def _moved(before: Values, function: str, change: float, single: bool) -> Values:
    if not single:
        return Values(
            before.loss + change if function == "loss" else None,
            before.margin + change if function == "margin" else None,
            None,
        )
    wrong = max(1 - before.probability, 1e-300)
    loss, margin = (change, -change / wrong) if function == "loss" else (-change * wrong, change)
    moved = before.margin + margin
    return Values(before.loss + loss, moved, 1 / (1 + math.exp(-moved)) if moved > -700 else 0.0)
