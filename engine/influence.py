"""From scores to what a person looks at: lists, histogram, the target's own view. No torch."""

from dataclasses import dataclass

import numpy as np

from engine import config, data, runs
from engine.errors import ConfigError, IntegrityError


@dataclass(frozen=True)
class TargetView:
    """A target as a person sees it. For sets, probabilities and margins are means over it."""

    name: str
    title: str
    test_indices: np.ndarray     # int64 [S]; none of an uploaded image
    true_label: int | None       # None for a set of several classes
    predicted_label: int | None  # None for a set
    probability: float           # of the true label, mean over a set
    predicted_probability: float
    loss: float
    margin: float
    accuracy: float              # share of the set classified right


@dataclass(frozen=True)
class Ranking:
    """Training images in order of effect: `helpful[0]` helps most, `harmful[0]` harms most.

    Indices int64 [k]. An example helps where its presence moves the target function the way
    one wants: a loss down, a margin up.
    """

    helpful: np.ndarray
    harmful: np.ndarray
    helpful_of: int      # how many there are on either side
    harmful_of: int
    first: int           # the rank of the first in the lists, from 1
    pages: int           # lists as long as these that there are, at least one


def harmful_sign(function: str) -> int:
    return 1 if function == "loss" else -1


def rank(scores_N: np.ndarray, function: str, k: int, among: np.ndarray | None = None, page: int = 1) -> Ranking:
    """The k most helpful and k most harmful, or the `page`-th k of each, by partition; only scores on that side
    of zero, and only where `among` [N] is true."""
    harm, start = harmful_sign(function) * np.asarray(scores_N), (page - 1) * k

    def largest(values):
        asked = np.flatnonzero((values > 0) & (True if among is None else among))
        count = min(start + k, len(asked))
        top = asked[np.argpartition(values[asked], -count)[-count:]] if count else asked
        return top[np.lexsort((top, -values[top]))][start:], len(asked)

    (helpful, helps), (harmful, harms) = largest(-harm), largest(harm)
    return Ranking(helpful, harmful, helps, harms, start + 1, max(1, -(-max(helps, harms) // k)))


def resolve(target: str, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """The test indices, int64 [S], that a target such as test:3, class:2 or test:all names; none for an uploaded image."""
    problem = config.target_problem(target, len(labels), n_classes)
    if problem:
        raise ConfigError(f"The target {problem}.", "Correct it and start again.",
                          {"targets": problem})
    kind, _, which = target.partition(":")
    if kind == "image":
        return np.empty(0, np.int64)
    if kind == "class":
        members = np.flatnonzero(labels == int(which))
        if not len(members):
            raise ConfigError(f"No test image has the class of {target}.", "Choose another class.")
        return members
    return np.arange(len(labels)) if which == "all" else np.array([int(which)])


def title(target: str, dataset: data.Dataset) -> str:
    kind, _, which = target.partition(":")
    if target == "test:all":
        return "All test images"
    if kind == "class":
        return f"All test images of class {dataset.classes[int(which)]}"
    if own := config.uploaded(target):
        return f"Own image {own[0][:6]} · {dataset.classes[own[1]]}"
    return f"Test image {which} · {dataset.classes[dataset.test_labels[int(which)]]}"


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(log_probabilities(logits))


def margins(right: np.ndarray) -> np.ndarray:
    """From log p of the label: log p − log(1 − p), the label's logit minus log-sum-exp of the others."""
    return right - np.log(-np.expm1(np.minimum(right, -1e-15)))


def at_target(run: runs.Run, dataset: data.Dataset, target: str) -> tuple[np.ndarray, np.ndarray]:
    """The trained model's logits [S, C] on a target's images, and the labels [S] asked about."""
    if own := config.uploaded(target):
        rows = [t for s in run.score_sets() for t in s["targets"] if t["name"] == target]
        if not rows:
            raise ConfigError(f"Run {run.id} has no scores for the target «{target}».", "Explain the image first.")
        return np.array([rows[-1]["logits"]]), np.array([own[1]])
    logits = run.test_logits()
    if logits.shape != (len(dataset.test_labels), len(dataset.classes)):
        raise IntegrityError(f"The logits of run {run.id} do not fit the data set {dataset.name}.",
                             "Delete the run and start it again.")
    indices = resolve(target, dataset.test_labels, len(dataset.classes))
    return logits[indices], dataset.test_labels[indices]


def view(run: runs.Run, dataset: data.Dataset, target: str) -> TargetView:
    indices = resolve(target, dataset.test_labels, len(dataset.classes))
    logits, labels = at_target(run, dataset, target)
    logp = log_probabilities(logits)            # [S, C]
    right = logp[np.arange(len(labels)), labels]
    predicted = logp.argmax(1)
    single = len(labels) == 1
    return TargetView(
        name=target, title=title(target, dataset), test_indices=indices,
        true_label=int(labels[0]) if (labels == labels[0]).all() else None,
        predicted_label=int(predicted[0]) if single else None,
        probability=float(np.exp(right).mean()),
        predicted_probability=float(np.exp(logp.max(1)).mean()),
        loss=float(-right.mean()),
        margin=float(margins(right).mean()),
        accuracy=float((predicted == labels).mean()))


def probabilities(run: runs.Run, dataset: data.Dataset, target: str) -> np.ndarray:
    """float64 [classes], mean over the target's test images."""
    return softmax(at_target(run, dataset, target)[0]).mean(0)


def misclassified(run: runs.Run, dataset: data.Dataset) -> np.ndarray:
    """Test indices whose predicted label is not the true one, most confident mistakes first."""
    logp = log_probabilities(run.test_logits())
    wrong = np.flatnonzero(logp.argmax(1) != dataset.test_labels)
    return wrong[np.argsort(-logp[wrong].max(1), kind="stable")]


def meaning(function: str) -> str:
    """The sign and the unit of a score, in one line."""
    what = "loss (nats)" if function == "loss" else "margin (logits)"
    up, down = ("harmful", "helpful") if function == "loss" else ("helpful", "harmful")
    return (f"A score is the derivative of the target's {what} with respect to the training "
            f"image's weight. Positive: training on it raised the {function} ({up}); negative: "
            f"lowered it ({down}). Leaving it out changes the {function} by about minus the score.")


def unit(function: str) -> str:
    return "nats per unit of example weight" if function == "loss" else "logits per unit of example weight"


def short_unit(function: str) -> str:
    return "nats" if function == "loss" else "logits"
