"""What leaving images out is predicted to do, beside what it did. No torch."""

import math
from dataclasses import asdict, dataclass, fields

import numpy as np

from engine.analysis import certainty, lists, target_view
from engine.analysis.logits import judged, log_probabilities
from engine.datasets.base import Dataset
from engine.errors import ConfigError, IntegrityError
from engine.runs.manifest import Manifest
from engine.targets import FUNCTIONS, target_function
from engine.targets.functions import margins

Figures = dict[str, float | None]
"""Of one target at one model, means over its images: a value of each target function by its name, and `PROBABILITY`.
None where it cannot be told."""

PROBABILITY = "probability"  # of the label asked about

MOST_CHANGED = 1000  # test images that a report names


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
    standard_error: float | None = None  # of `change`; None where no validation says it (`engine.analysis.certainty`)


@dataclass(frozen=True)
class Changed:
    """A test image to which the retrained model gives another label; labels are numbers of classes, probabilities those
    of the true label."""

    index: int
    before: int
    after: int
    probability_before: float
    probability_after: float


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


def after(function: str, now: float, change: float) -> float:
    """The value of a target function that is `now`, once it has changed, to first order: a loss ends at 0, which the
    first order does not know."""
    return max(target_function(function).lowest, now + change)


def is_capped(function: str, now: float, change: float) -> bool:
    """Whether the first order foretells less than the least value that there is."""
    return now + change < target_function(function).lowest


def predict(record: Manifest, dataset: Dataset, left_out: np.ndarray) -> list[WhatIf]:
    """What leaving images out will do to each target of the run, to first order: the target function changes by −Σ τ.

    For a target of one image the figures that follow from its margin move with it (`TargetFunction.slope`). No figure
    is below the least that it can be; `change` is the first order as it is. Imported scores foretell nothing.
    """
    refs, what_ifs = record.score_sets.targets(), []
    errors = certainty.standard_errors(record, left_out)
    for ref, scores_N in zip(refs, record.score_sets.rows(refs), strict=True):
        if target_function(ref.function).method:
            continue
        logits, labels = target_view.at_target(record, dataset, ref.target)
        change = lists.without(scores_N, left_out)
        before = values(logits, labels, ref.function)
        margin = float(margins(logits, labels)[0]) if len(labels) == 1 else None
        moved = _moved(before, ref.function, change, margin)
        what_ifs.append(WhatIf(ref.key, ref.name, ref.function, change, before, moved, None, errors[ref.key]))
    return what_ifs


def _moved(before: dict[str, float], function: str, change: float, margin: float | None) -> Figures:
    """The figures once `function` has changed; `margin` of the one image, None for a set of several, of which no
    other figure follows."""
    moved: Figures = {**dict.fromkeys(before), function: after(function, before[function], change)}
    slope = target_function(function).slope
    if margin is None or slope is None:
        return moved
    rise = change / (slope(margin) or -1e-300)  # of the margin; a loss whose last digit is gone can only rise
    for name, other in FUNCTIONS.items():
        if name != function and other.slope is not None:
            moved[name] = after(name, before[name], other.slope(margin) * rise)
    then = margin + rise
    moved[PROBABILITY] = 1 / (1 + math.exp(-then)) if then > -700 else 0.0
    return moved


# -- the test set, before and after


def on_test(before_NC: np.ndarray, after_NC: np.ndarray, labels_N: np.ndarray) -> dict:
    """What a retraining did to the test set, as a report keeps it: the mean loss (nats) of each class's images, None
    where a class has none; how many images have another predicted label, are right only now, or only were; and those of
    another label, the largest change of the true label's probability first, at most `MOST_CHANGED`."""
    was, now = judged(before_NC, labels_N), judged(after_NC, labels_N)
    p_was, p_now = np.exp(was.given), np.exp(now.given)
    changed = np.flatnonzero(was.predicted_label != now.predicted_label)
    order = changed[np.argsort(-np.abs(p_now - p_was)[changed], kind="stable")][:MOST_CHANGED]
    right_was, right_now = was.predicted_label == labels_N, now.predicted_label == labels_N
    classes = before_NC.shape[1]
    return {
        "loss_before": _by_class(-was.given, labels_N, classes),
        "loss_after": _by_class(-now.given, labels_N, classes),
        "changed": len(changed),
        "corrected": int((right_now & ~right_was).sum()),
        "spoiled": int((right_was & ~right_now).sum()),
        "images": [
            asdict(Changed(int(i), int(b), int(a), float(p), float(q)))
            for i, b, a, p, q in zip(
                order,
                was.predicted_label[order],
                now.predicted_label[order],
                p_was[order],
                p_now[order],
                strict=True,
            )
        ],
    }


def _by_class(loss_N: np.ndarray, labels_N: np.ndarray, classes: int) -> list[float | None]:
    counts = np.bincount(labels_N, minlength=classes)
    sums = np.bincount(labels_N, loss_N, minlength=classes)
    return [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]


def changed_images(report: dict, dataset: Dataset) -> list[Changed]:
    """Of a what-if's report that has them. Raises `IntegrityError` where they are not the data set's."""
    names = [field.name for field in fields(Changed)]
    images = [Changed(**{name: each[name] for name in names}) for each in report["test"]["images"]]
    n, classes = len(dataset.test_labels), len(dataset.classes)
    if any(each.index >= n or max(each.before, each.after) >= classes for each in images):
        raise IntegrityError(
            f"The report {report['name']} speaks of test images or classes that {dataset.name} has not.",
            "Delete the validation in Runs and storage, and train again.",
        )
    return images
