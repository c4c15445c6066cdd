"""Training backwards: from the adjoints at the end to the score of every training example.

    scores[k, i] = dφ_k/dw_i,   [K, N], in units of φ_k per unit of example weight

summed over the steps that saw example i (arXiv 2503.13751, algorithm 1; 2504.16430). Exact:
no term of the derivative is left out, and rounding is the only error.
"""

from typing import Callable

import torch
from torch import Tensor

from engine.config import Recipe
from engine.device import memory_free
from engine.errors import DivergedError
from engine.models import FunctionalModel
from engine.schedule import learning_rate, plan_for
from engine.state import Adjoint, Examples
from engine.step import step_back
from engine.store import Trajectory
from engine.training import optimizer_for

# Copies of a forward pass's saved values that one target holds while it is carried through a
# step: its tangents forwards and backwards, and work space. Measured peak was 2.1 to 2.6.
TANGENT_COPIES = 3
# On a CPU, wider passes leave the caches: 8 targets of the sample took 0.59 s a step in chunks of
# 4 and 0.76 s in one. A GPU wants them wide.
LARGEST_CHUNK = {"cpu": 4, "cuda": 64}


def replay(model: FunctionalModel, data: Examples, recipe: Recipe, trajectory: Trajectory,
           adjoint: Adjoint, weights: Tensor | None = None, targets_per_pass: int = 0,
           on_progress: Callable[[int, Adjoint], None] | None = None,
           before_step: Callable[[int], None] | None = None) -> Tensor:
    """Scores [K, N], in the adjoint's precision, from the adjoint at the final state.

    `on_progress(steps done, adjoint)`. Raises `DivergedError` where an adjoint or a score is not
    finite, and what the trajectory raises where a step cannot be read.
    """
    plan = plan_for(recipe, len(data))
    steps, optimizer = len(plan), optimizer_for(model, recipe)
    w_N = data.labels.new_ones(len(data), dtype=data.dtype) if weights is None else weights
    scores = adjoint.theta.new_zeros(adjoint.theta.shape[0], len(data))     # [K, N]
    chunk = targets_per_pass or chunk_that_fits(model, data, recipe, len(scores))
    for t in reversed(range(steps)):
        if before_step is not None:
            before_step(t)
        index = torch.as_tensor(plan[t], device=w_N.device)
        adjoint, score_KB = step_back(
            model, optimizer, trajectory.get(t), data.batch(index), w_N[index],
            learning_rate(recipe, t, steps), adjoint, chunk=chunk)
        scores[:, index] += score_KB
        if on_progress is not None:
            on_progress(steps - t, adjoint)
    if not torch.isfinite(scores).all():
        raise DivergedError("The adjoint grew beyond finite numbers while replaying.",
                            "Training is too chaotic to explain: lower the peak learning rate or "
                            "use a larger batch.")
    return scores


def chunk_that_fits(model: FunctionalModel, data: Examples, recipe: Recipe, targets: int) -> int:
    """Targets a pass, so that their tangents take at most half of the free memory."""
    saved = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal saved
        saved += tensor.numel() * tensor.element_size()
        return tensor

    inputs, _ = data.batch(torch.arange(recipe.batch_size))
    theta = model.theta0.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        model(theta, model.buffers0, inputs, training=True)
    per_target = TANGENT_COPIES * saved + 6 * theta.numel() * theta.element_size()
    fit = memory_free(theta.device) // 2 // per_target
    return int(max(1, min(fit, targets, LARGEST_CHUNK[theta.device.type])))
