"""Training backwards: from the adjoints at the end to the score of every training example.

    scores[k, i] = dφ_k/dw_i,   [K, N], in units of φ_k per unit of example weight

summed over the steps that saw example i (arXiv 2503.13751, algorithm 1; 2504.16430). Exact:
no term of the derivative is left out, and rounding is the only error.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from engine.config import Recipe
from engine.core.memory import bytes_per_target, chunk_that_fits
from engine.core.schedule import learning_rate, plan_for
from engine.core.state import Adjoint, Trajectory
from engine.core.step import step_back
from engine.core.stream import Examples
from engine.core.training import optimizer_for
from engine.errors import DivergedError
from engine.models.functional import FunctionalModel

# Called with (steps done, the adjoint before the last of them, the scores so far [K, N]).
OnProgress = Callable[[int, Adjoint, Tensor], None]


def replay(
    model: FunctionalModel,
    data: Examples,
    recipe: Recipe,
    trajectory: Trajectory,
    adjoint: Adjoint,
    weights: Tensor | None = None,
    targets_per_pass: int = 0,
    on_progress: OnProgress | None = None,
    before_step: Callable[[int], None] | None = None,
    resume: tuple[int, Tensor] | None = None,
) -> Tensor:
    """Scores [K, N], in the adjoint's precision, from the adjoint at the final state.

    `resume`, steps done and the scores [K, N] so far, goes on from there; the adjoint is then the
    one before those steps. Raises `DivergedError` where an adjoint or a score is not finite, and
    what the trajectory raises where a step can neither be read nor rebuilt.
    """
    plan = plan_for(recipe, len(data))
    steps, optimizer = len(plan), optimizer_for(model, recipe)
    w_N = data.labels.new_ones(len(data), dtype=data.dtype) if weights is None else weights
    done, scores = resume or (0, adjoint.theta.new_zeros(adjoint.theta.shape[0], len(data)))  # [K, N]
    batch_shape = data.batch(plan[0])[0].shape
    chunk = targets_per_pass or chunk_that_fits(bytes_per_target(model, batch_shape), len(scores), scores.device)
    for t in reversed(range(steps - done)):
        if before_step is not None:
            before_step(t)
        index = torch.as_tensor(plan[t], device=w_N.device)
        adjoint, score_KB = step_back(
            model,
            optimizer,
            trajectory.get(t),
            data.batch(index),
            w_N[index],
            learning_rate(recipe, t, steps),
            adjoint,
            chunk=chunk,
        )
        scores[:, index] += score_KB
        if on_progress is not None:
            on_progress(steps - t, adjoint, scores)
    if not torch.isfinite(scores).all():
        raise DivergedError(
            "The adjoint grew beyond finite numbers while replaying.",
            "Training is too chaotic to explain: lower the peak learning rate or use a larger batch.",
        )
    return scores
