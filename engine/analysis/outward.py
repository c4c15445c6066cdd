"""One training image outwards: its effect on every target. No torch."""

from dataclasses import dataclass

import numpy as np

from engine.config import Recipe
from engine.core.schedule import plan_for
from engine.runs.manifest import Manifest
from engine.runs.scores import TargetRef
from engine.targets import target_function


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


def scores_on(record: Manifest, indices) -> tuple[list[TargetRef], np.ndarray]:
    """All targets of the run, and the scores of some training images on them: float32 [K, len(indices)]."""
    targets = record.score_sets.targets()
    rows = [row_N[indices] for row_N in record.score_sets.rows(targets)]
    return targets, np.array(rows, np.float32).reshape(len(targets), len(indices))


@dataclass(frozen=True)
class Effect:
    """What one training image did to one target. `side`: helpful, harmful, or none where the score is 0, as that of an
    image is which was in no batch. `share` of the largest score that there is on the target, above 0 where it harms.
    `rank` 1 of the `of` images on that side helped, or harmed, most; None, of 0, on neither."""

    ref: TargetRef
    score: float
    side: str
    share: float
    rank: int | None
    of: int


def outward(record: Manifest, index: int) -> list[Effect]:
    """The effects of a training image on every target of the run, the most harmful first, in shares of each
    target's largest score: nats and logits do not compare, and neither do targets."""
    targets, found = record.score_sets.targets(), []
    for target, scores_N in zip(targets, record.score_sets.rows(targets), strict=True):
        harm_N = target_function(target.function).harmful_sign * scores_N
        harm, largest = float(harm_N[index]), float(np.abs(harm_N).max())
        side = "harmful" if harm > 0 else "helpful" if harm < 0 else "none"
        stronger = (harm_N > harm) if harm > 0 else (harm_N < harm)
        rank = None if side == "none" else int(stronger.sum()) + 1
        of = int((harm_N > 0).sum() if harm > 0 else (harm_N < 0).sum()) if harm else 0
        share = harm / largest if largest else 0.0
        found.append(Effect(target, float(scores_N[index]), side, share, rank, of))
    return sorted(found, key=lambda effect: -effect.share)


def strongest(record: Manifest, keys: list[str], each: int) -> tuple[np.ndarray, np.ndarray]:
    """The `each` training images with the largest |score| on each of some targets, together, and their scores
    on all of those: int64 [M] and float32 [M, len(keys)]."""
    rows = record.score_sets.rows(record.score_sets.target(key) for key in keys)
    top = [np.argpartition(np.abs(row), -min(each, len(row)))[-min(each, len(row)) :] for row in rows]
    indices = np.unique(np.concatenate(top))
    matrix = np.stack([row[indices] for row in rows], axis=1)
    share = matrix / np.maximum(np.abs(matrix).max(0), 1e-30)
    order = np.argsort(-share.sum(1), kind="stable")
    return indices[order], matrix[order]
