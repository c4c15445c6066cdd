"""A target as a person sees it: what the trained model says about its images. No torch."""

from dataclasses import dataclass

import numpy as np

from engine.analysis.logits import judged, log_probabilities, softmax
from engine.datasets.base import SPLITS, Dataset
from engine.errors import ConfigError, IntegrityError
from engine.runs.manifest import Manifest
from engine.runs.scores import TargetRef
from engine.targets import FUNCTIONS, TEST, Members, Target, UploadedImage, target_function
from engine.targets.names import canonical


@dataclass(frozen=True)
class TargetView:
    """A target as a person sees it. Of a set, probability and values are means over it. Of imported scores without the
    model's logits nothing is known of what it says: then there are no values, and figures are NaN."""

    target: Target
    title: str
    members: Members  # its images; none of an uploaded one
    true_label: int | None  # None for a set of several classes
    predicted_label: int | None  # None for a set
    probability: float  # of the true label
    values: dict[str, float]  # of each target function that takes no classes, and of the one asked for, by its name
    accuracy: float  # share of the set classified right

    @property
    def several(self) -> bool:
        """Whether it is a set of images."""
        return len(self.members) > 1

    @property
    def judged(self) -> bool:
        """Whether it is known what the model says of it."""
        return bool(self.values)


def gradient_norm(record: Manifest, ref: TargetRef) -> float | None:
    """‖dφ/dθ‖ of a scored target at the end of training, of which its replay began; None where that was not recorded,
    as in runs of older versions."""
    for sidecar in record.score_sets.sidecars():
        if sidecar["name"] == ref.score_set and sidecar.get("norm_steps", [])[:1] == [record.steps]:
            return next(iter(sidecar["targets"][ref.row].get("norms", [])), None)
    return None


@dataclass(frozen=True)
class Glance:
    """What a thumbnail says of a target. `label` is the one asked about; both are None for a set of images."""

    members: Members  # its images; none of an uploaded one
    label: int | None
    predicted: int | None  # also None where it is not known what the model says


def glance(record: Manifest, dataset: Dataset, target: Target) -> Glance:
    """Raises as `at_target` does."""
    members = target.resolve(dataset, record.test_logits)
    if len(members) > 1 or not _has_logits(record, members):
        return Glance(members, None, None)
    logits, labels = at_target(record, dataset, target)
    return Glance(members, int(labels[0]), int(logits[0].argmax()))


def at_target(record: Manifest, dataset: Dataset, target: Target) -> tuple[np.ndarray, np.ndarray]:
    """The trained model's logits [S, C] on a target's images, and the labels [S] asked about.

    Raises `ConfigError` for a target that the data set, or the run, has not, `IntegrityError` for damaged files.
    """
    members = target.resolve(dataset, record.test_logits)
    if members.split != TEST:  # the score set keeps the logits of an image that is not in the test split
        rows = [t for s in record.score_sets.sidecars() for t in s["targets"] if canonical(t["name"]) == str(target)]
        if not rows:
            raise ConfigError(
                f"Run {record.run_id} has no scores for the target «{target}».", "Explain the image first."
            )
        return np.array([rows[-1]["logits"]]), labels_of(target, members, dataset)
    logits = record.test_logits()
    if logits.shape != (len(dataset.test_labels), len(dataset.classes)):
        raise IntegrityError(
            f"The logits of run {record.run_id} do not fit the data set {dataset.name}.",
            "Delete the run and start it again.",
        )
    return logits[members.indices], labels_of(target, members, dataset)


def _has_logits(record: Manifest, members: Members) -> bool:
    """Whether what the model says of a target's images is there: of imported scores it need not be."""
    return not record.method or (members.split in SPLITS and record.has_logits(members.split))


def labels_of(target: Target, members: Members, dataset: Dataset) -> np.ndarray:
    """The labels asked about, int64 [S]: the data set's, or of an uploaded image the one that its target names."""
    if isinstance(target, UploadedImage):
        return np.array([target.label])
    return dataset.labels(members.split)[members.indices]


def values(logits_SC: np.ndarray, labels_S: np.ndarray, function: str | None = None) -> dict[str, float]:
    """The mean of each target function that takes no classes, and of `function`, at a model's logits, by name."""
    names = list(FUNCTIONS)
    if function is not None and function not in names and not target_function(function).method:
        names.append(function)
    return {name: float(target_function(name).from_logits(logits_SC, labels_S).mean()) for name in names}


def view(record: Manifest, dataset: Dataset, target: Target, function: str | None = None) -> TargetView:
    """`function` is one more whose value is asked for."""
    members = target.resolve(dataset, record.test_logits)
    if not _has_logits(record, members):
        return _unjudged(target, members, dataset)
    logits, labels = at_target(record, dataset, target)
    logp = log_probabilities(logits)  # [S, C]
    predicted = logp.argmax(1)
    return TargetView(
        target=target,
        title=target.title(dataset),
        members=members,
        true_label=int(labels[0]) if (labels == labels[0]).all() else None,
        predicted_label=int(predicted[0]) if len(labels) == 1 else None,
        probability=float(np.exp(logp[np.arange(len(labels)), labels]).mean()),
        values=values(logits, labels, function),
        accuracy=float((predicted == labels).mean()),
    )


def _unjudged(target: Target, members: Members, dataset: Dataset) -> TargetView:
    """Of scores that came without logits."""
    labels = labels_of(target, members, dataset)
    label = int(labels[0]) if (labels == labels[0]).all() else None
    return TargetView(target, target.title(dataset), members, label, None, float("nan"), {}, float("nan"))


def probabilities(record: Manifest, dataset: Dataset, target: Target) -> np.ndarray:
    """float64 [classes], mean over the target's images."""
    return softmax(at_target(record, dataset, target)[0]).mean(0)


def misclassified(record: Manifest, dataset: Dataset) -> np.ndarray:
    """Test indices whose predicted label is not the true one, most confident mistakes first: int64 [M]."""
    _, predicted, best = judged(record.test_logits(), dataset.test_labels)
    wrong = np.flatnonzero(predicted != dataset.test_labels)
    return wrong[np.argsort(-best[wrong], kind="stable")]
