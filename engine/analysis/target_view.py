"""From scores to what a person looks at: lists, histogram, the target's own view. No torch."""

from dataclasses import dataclass

import numpy as np

from engine.analysis.logits import log_probabilities, margins, softmax
from engine.datasets import base as datasets_base
from engine.errors import ConfigError, IntegrityError
from engine.runs import run as runs
from engine.targets import names as target_names
from engine.targets.names import resolve, title


@dataclass(frozen=True)
class TargetView:
    """A target as a person sees it. For sets, probabilities and margins are means over it."""

    name: str
    title: str
    test_indices: np.ndarray  # int64 [S]; none of an uploaded image
    true_label: int | None  # None for a set of several classes
    predicted_label: int | None  # None for a set
    probability: float  # of the true label, mean over a set
    predicted_probability: float
    loss: float
    margin: float
    accuracy: float  # share of the set classified right


def at_target(run: runs.Run, dataset: datasets_base.Dataset, target: str) -> tuple[np.ndarray, np.ndarray]:
    """The trained model's logits [S, C] on a target's images, and the labels [S] asked about."""
    if own := target_names.uploaded(target):
        rows = [t for s in run.score_sets() for t in s["targets"] if t["name"] == target]
        if not rows:
            raise ConfigError(f"Run {run.id} has no scores for the target «{target}».", "Explain the image first.")
        return np.array([rows[-1]["logits"]]), np.array([own[1]])
    logits = run.test_logits()
    if logits.shape != (len(dataset.test_labels), len(dataset.classes)):
        raise IntegrityError(
            f"The logits of run {run.id} do not fit the data set {dataset.name}.", "Delete the run and start it again."
        )
    indices = resolve(target, dataset.test_labels, len(dataset.classes))
    return logits[indices], dataset.test_labels[indices]


def view(run: runs.Run, dataset: datasets_base.Dataset, target: str) -> TargetView:
    indices = resolve(target, dataset.test_labels, len(dataset.classes))
    logits, labels = at_target(run, dataset, target)
    logp = log_probabilities(logits)  # [S, C]
    right = logp[np.arange(len(labels)), labels]
    predicted = logp.argmax(1)
    single = len(labels) == 1
    return TargetView(
        name=target,
        title=title(target, dataset),
        test_indices=indices,
        true_label=int(labels[0]) if (labels == labels[0]).all() else None,
        predicted_label=int(predicted[0]) if single else None,
        probability=float(np.exp(right).mean()),
        predicted_probability=float(np.exp(logp.max(1)).mean()),
        loss=float(-right.mean()),
        margin=float(margins(right).mean()),
        accuracy=float((predicted == labels).mean()),
    )


def probabilities(run: runs.Run, dataset: datasets_base.Dataset, target: str) -> np.ndarray:
    """float64 [classes], mean over the target's test images."""
    return softmax(at_target(run, dataset, target)[0]).mean(0)


def misclassified(run: runs.Run, dataset: datasets_base.Dataset) -> np.ndarray:
    """Test indices whose predicted label is not the true one, most confident mistakes first."""
    logp = log_probabilities(run.test_logits())
    wrong = np.flatnonzero(logp.argmax(1) != dataset.test_labels)
    return wrong[np.argsort(-logp[wrong].max(1), kind="stable")]
