"""A target as a person sees it: what the trained model says about its images. No torch."""

from dataclasses import dataclass

import numpy as np

from engine.analysis.logits import log_probabilities, softmax
from engine.datasets.base import Dataset
from engine.errors import ConfigError, IntegrityError
from engine.runs.manifest import Manifest
from engine.targets import FUNCTIONS, Target, UploadedImage


@dataclass(frozen=True)
class TargetView:
    """A target as a person sees it. Of a set, probability and values are means over it."""

    target: Target
    title: str
    test_indices: np.ndarray  # int64 [S]; none of an uploaded image
    true_label: int | None  # None for a set of several classes
    predicted_label: int | None  # None for a set
    probability: float  # of the true label
    values: dict[str, float]  # of each target function, by its name
    accuracy: float  # share of the set classified right


def at_target(record: Manifest, dataset: Dataset, target: Target) -> tuple[np.ndarray, np.ndarray]:
    """The trained model's logits [S, C] on a target's images, and the labels [S] asked about.

    Raises `ConfigError` for a target that the data set, or the run, has not, `IntegrityError` for damaged files.
    """
    if isinstance(target, UploadedImage):
        rows = [t for s in record.score_sets.sidecars() for t in s["targets"] if t["name"] == str(target)]
        if not rows:
            raise ConfigError(
                f"Run {record.run_id} has no scores for the target «{target}».", "Explain the image first."
            )
        return np.array([rows[-1]["logits"]]), np.array([target.label])
    logits = record.test_logits()
    if logits.shape != (len(dataset.test_labels), len(dataset.classes)):
        raise IntegrityError(
            f"The logits of run {record.run_id} do not fit the data set {dataset.name}.",
            "Delete the run and start it again.",
        )
    indices = target.resolve(dataset.test_labels, len(dataset.classes))
    return logits[indices], dataset.test_labels[indices]


def view(record: Manifest, dataset: Dataset, target: Target) -> TargetView:
    indices = target.resolve(dataset.test_labels, len(dataset.classes))
    logits, labels = at_target(record, dataset, target)
    logp = log_probabilities(logits)  # [S, C]
    predicted = logp.argmax(1)
    return TargetView(
        target=target,
        title=target.title(dataset),
        test_indices=indices,
        true_label=int(labels[0]) if (labels == labels[0]).all() else None,
        predicted_label=int(predicted[0]) if len(labels) == 1 else None,
        probability=float(np.exp(logp[np.arange(len(labels)), labels]).mean()),
        values={name: float(function.from_logits(logits, labels).mean()) for name, function in FUNCTIONS.items()},
        accuracy=float((predicted == labels).mean()),
    )


def probabilities(record: Manifest, dataset: Dataset, target: Target) -> np.ndarray:
    """float64 [classes], mean over the target's images."""
    return softmax(at_target(record, dataset, target)[0]).mean(0)


def misclassified(record: Manifest, dataset: Dataset) -> np.ndarray:
    """Test indices whose predicted label is not the true one, most confident mistakes first: int64 [M]."""
    logp = log_probabilities(record.test_logits())
    wrong = np.flatnonzero(logp.argmax(1) != dataset.test_labels)
    return wrong[np.argsort(-logp[wrong].max(1), kind="stable")]
