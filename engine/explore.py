"""Scores looked at from all sides: filtered lists, one training image outwards, class on class. No torch.

Top lists are found by partition on the memory-mapped scores; nothing here sorts all of them.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from engine import influence, notes
from engine.config import Recipe
from engine.data import Dataset
from engine.errors import ConfigError
from engine.runs import Run, TargetRef
from engine.schedule import plan_for

RELATIONS = ("any", "same", "other")


@dataclass(frozen=True)
class Filter:
    """Which training images a list may hold; the limits of the score in its own unit, both included."""

    label: int | None = None                # of the training image
    relation: str = "any"                   # of its label to the target's: `RELATIONS`
    low: float | None = None
    high: float | None = None

    def among(self, scores_N: np.ndarray, labels_N: np.ndarray, true_label: int | None) -> np.ndarray:
        """bool [N]. `true_label` of the target, None where it has several: then only "any" makes sense."""
        if self.relation != "any" and true_label is None:
            raise ConfigError("This target has several labels, so no training image has the same.",
                              "Choose any label, or another target.")
        kept = np.ones(len(labels_N), bool)
        if self.label is not None:
            kept &= labels_N == self.label
        if self.relation != "any":
            kept &= (labels_N == true_label) == (self.relation == "same")
        if self.low is not None:
            kept &= scores_N >= self.low
        if self.high is not None:
            kept &= scores_N <= self.high
        return kept


def table(run: Run, dataset: Dataset, target: TargetRef, chosen: Filter, true_label: int | None) -> pd.DataFrame:
    """Every training image that the filter keeps, the most harmful first, with its ticks and notes."""
    scores_N, said = run.scores(target.score_set)[target.row], notes.read(run)
    indices = np.flatnonzero(chosen.among(scores_N, dataset.train_labels, true_label))
    indices = indices[np.argsort(-influence.harmful_sign(target.function) * scores_N[indices], kind="stable")]
    names = np.array(dataset.classes)
    return pd.DataFrame({"target": target.key, "index": indices, "label": names[dataset.train_labels[indices]],
                         "score": scores_N[indices], "unit": influence.unit(target.function),
                         "ticked": np.isin(indices, said.ticked), "note": [said.of(i) for i in indices.tolist()]})


def without(scores_N: np.ndarray, left_out: np.ndarray) -> float:
    """The change of the target function, to first order, if these images are left out: −Σ τ."""
    return float(-np.asarray(scores_N[left_out], np.float64).sum())


def used_in(recipe: Recipe, n: int, indices) -> list[np.ndarray]:
    """Of each training image in `indices`, the steps of the training, from 1, whose batch holds it:
    one an epoch, or none in an epoch whose last, incomplete batch would have held it."""
    plan, indices = plan_for(recipe, n), np.asarray(indices, np.int64)
    steps = np.zeros((recipe.epochs, len(indices)), np.int64)
    of = np.full(n, -1)
    of[indices] = np.arange(len(indices))
    for t in range(len(plan)):
        here = of[plan[t]]
        steps[t * recipe.epochs // len(plan), here[here >= 0]] = t + 1
    return [column[column > 0] for column in steps.T]


def scores_on(run: Run, indices) -> tuple[list[TargetRef], np.ndarray]:
    """All targets of the run, and the scores of some training images on them: float32 [K, len(indices)]."""
    targets = run.targets()
    sets = {name: run.scores(name) for name in {t.score_set for t in targets}}
    found = [sets[t.score_set][t.row][indices] for t in targets]
    return targets, np.array(found, np.float32).reshape(len(targets), len(indices))


def last(n: int) -> int:
    """The index of the last of n images."""
    return n - 1


def of_class(labels_N: np.ndarray, label: int | None) -> np.ndarray:
    """int64 [M], of the images with this label, or of all."""
    return np.arange(len(labels_N)) if label is None else np.flatnonzero(labels_N == label)


@dataclass(frozen=True)
class Effect:
    """What one training image did to one target. `side`: helpful, harmful, or none where the score is 0, as that of an
    image is which was in no batch. `rank` 1 of all `of` images helped, or harmed, most; None on neither side."""

    target: TargetRef
    score: float
    side: str
    rank: int | None
    of: int


def outward(run: Run, index: int) -> list[Effect]:
    """The effects of a training image on every target of the run, the most harmful first, in shares of each
    target's largest score: nats and logits do not compare, and neither do targets."""
    targets = run.targets()
    sets = {name: run.scores(name) for name in {t.score_set for t in targets}}
    found = []
    for target in targets:
        harm_N = influence.harmful_sign(target.function) * sets[target.score_set][target.row]
        harm, largest = float(harm_N[index]), float(np.abs(harm_N).max())
        side = "harmful" if harm > 0 else "helpful" if harm < 0 else "none"
        stronger = (harm_N > harm) if harm > 0 else (harm_N < harm)
        rank = None if side == "none" else int(stronger.sum()) + 1
        found.append((harm / largest if largest else 0.0,
                      Effect(target, float(sets[target.score_set][target.row, index]), side, rank, len(harm_N))))
    return [effect for _, effect in sorted(found, key=lambda pair: -pair[0])]


def strongest(run: Run, keys: list[str], each: int) -> tuple[np.ndarray, np.ndarray]:
    """The `each` training images with the largest |score| on each of some targets, together, and their scores
    on all of those: int64 [M] and float32 [M, len(keys)]."""
    refs = [run.target(key) for key in keys]
    sets = {name: run.scores(name) for name in {t.score_set for t in refs}}
    rows = [sets[t.score_set][t.row] for t in refs]
    top = [np.argpartition(np.abs(row), -min(each, len(row)))[-min(each, len(row)):] for row in rows]
    indices = np.unique(np.concatenate(top))
    matrix = np.stack([row[indices] for row in rows], axis=1)
    share = matrix / np.maximum(np.abs(matrix).max(0), 1e-30)
    order = np.argsort(-share.sum(1), kind="stable")
    return indices[order], matrix[order]


# -- class on class


def groups(run: Run, dataset: Dataset, function: str) -> dict[str, list[TargetRef]]:
    """The run's targets of one function by what they ask about: single test images together by their class, then
    every set on its own; each kind in the order of the classes, so that like stands above like in the matrix."""
    found: dict[tuple, list[TargetRef]] = {}
    for target in run.targets():
        if target.function == function:
            kind, _, which = target.name.partition(":")
            title, place = influence.title(target.name, dataset), (2, 0)
            if kind == "class":
                place = (1, int(which))
            elif kind == "test" and which != "all":
                label = int(dataset.test_labels[int(which)])
                title, place = f"Test images of {dataset.classes[label]}", (0, label)
            found.setdefault((*place, title), []).append(target)
    return {title: found[place, label, title] for place, label, title in sorted(found)}


def group_scores(run: Run, targets: list[TargetRef]) -> np.ndarray:
    """The mean of some targets' scores, float64 [N]: those of their mean, for scores are linear in the target."""
    sets = {name: run.scores(name) for name in {t.score_set for t in targets}}
    return sum(np.asarray(sets[t.score_set][t.row], np.float64) for t in targets) / len(targets)


def class_matrix(run: Run, dataset: Dataset, function: str) -> tuple[list[str], np.ndarray]:
    """The groups' titles, and [groups, classes]: the sum of the training images' scores by their label.

    Leaving a class out is no small change, so minus a sum is no prediction of that: it tells the direction
    in which the class pulled the target.
    """
    found = groups(run, dataset, function)
    rows = [np.bincount(dataset.train_labels, group_scores(run, targets), len(dataset.classes)) for targets in found.values()]
    return list(found), np.array(rows).reshape(len(rows), len(dataset.classes))


# -- the test images

ORDERS = ("wrong first", "least sure", "most sure", "index")


@dataclass(frozen=True)
class TestFilter:
    """Which test images to show; the limits of the confidence, the probability of the predicted class, are included."""

    wrong: bool = False                     # misclassified ones alone
    true: int | None = None
    predicted: int | None = None
    low: float = 0.0
    high: float = 1.0


def test_images(logits: np.ndarray, labels: np.ndarray, chosen: TestFilter, order: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the test images that the filter keeps, in one of `ORDERS`, int64 [M]; and of every test image the
    predicted class int64 [N] and the confidence float64 [N]. "wrong first": the most confident mistakes first."""
    logp = influence.log_probabilities(logits)
    predicted, confidence = logp.argmax(1), np.exp(logp.max(1))
    mistaken = predicted != labels
    kept = (confidence >= chosen.low) & (confidence <= chosen.high) & (mistaken | (not chosen.wrong))
    for asked, values in ((chosen.true, labels), (chosen.predicted, predicted)):
        if asked is not None:
            kept &= values == asked
    keys = {"wrong first": np.where(mistaken, -confidence, 1 + confidence), "least sure": confidence, "most sure": -confidence,
            "index": np.arange(len(labels))}
    found = np.flatnonzero(kept)
    return found[np.argsort(keys[order][found], kind="stable")], predicted, confidence


def confusion(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """int64 [true, predicted], counts of test images."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def pages(count: int, a_page: int) -> int:
    return max(1, -(-count // a_page))


def of_page(items, page: int, a_page: int):
    """The `page`-th (from 1) `a_page` of them."""
    return items[(page - 1) * a_page:page * a_page]
