"""Training backwards: from the adjoints at the end to the score of every training example.

    scores[k, i] = dφ_k/dw_i,   [K, N], in units of φ_k per unit of example weight

summed over the steps that saw example i (arXiv 2503.13751, algorithm 1; 2504.16430). Exact:
no term of the derivative is left out, and rounding is the only error.
"""

from typing import Callable

import torch
from torch import Tensor

from engine.config import Recipe
from engine.device import memory_free, memory_total
from engine.errors import DivergedError
from engine.models import FunctionalModel
from engine.schedule import learning_rate, plan_for
from engine.state import Adjoint, Examples
from engine.step import step_back
from engine.training import optimizer_for
from engine.trajectory import Trajectory

# Copies of a forward pass's saved values that one target holds while it is carried through a
# step: its tangents forwards and backwards, and work space. `tests/test_gpu.py` measures it.
TANGENT_COPIES = 3
# On a CPU, wider passes leave the caches: 8 targets of the sample took 0.59 s a step in chunks of
# 4 and 0.76 s in one. A GPU wants them wide.
LARGEST_CHUNK = {"cpu": 4, "cuda": 64}


# Called with (steps done, the adjoint before the last of them, the scores so far [K, N]).
OnProgress = Callable[[int, Adjoint, Tensor], None]


def replay(model: FunctionalModel, data: Examples, recipe: Recipe, trajectory: Trajectory,
           adjoint: Adjoint, weights: Tensor | None = None, targets_per_pass: int = 0,
           on_progress: OnProgress | None = None,
           before_step: Callable[[int], None] | None = None,
           resume: tuple[int, Tensor] | None = None) -> Tensor:
    """Scores [K, N], in the adjoint's precision, from the adjoint at the final state.

    `resume`, steps done and the scores [K, N] so far, goes on from there; the adjoint is then the
    one before those steps. Raises `DivergedError` where an adjoint or a score is not finite, and
    what the trajectory raises where a step can neither be read nor rebuilt.
    """
    plan = plan_for(recipe, len(data))
    steps, optimizer = len(plan), optimizer_for(model, recipe)
    w_N = data.labels.new_ones(len(data), dtype=data.dtype) if weights is None else weights
    done, scores = resume or (0, adjoint.theta.new_zeros(adjoint.theta.shape[0], len(data)))     # [K, N]
    batch_shape = data.batch(plan[0])[0].shape
    chunk = targets_per_pass or chunk_that_fits(bytes_per_target(model, batch_shape), len(scores),
                                                scores.device)
    for t in reversed(range(steps - done)):
        if before_step is not None:
            before_step(t)
        index = torch.as_tensor(plan[t], device=w_N.device)
        adjoint, score_KB = step_back(
            model, optimizer, trajectory.get(t), data.batch(index), w_N[index],
            learning_rate(recipe, t, steps), adjoint, chunk=chunk)
        scores[:, index] += score_KB
        if on_progress is not None:
            on_progress(steps - t, adjoint, scores)
    if not torch.isfinite(scores).all():
        raise DivergedError("The adjoint grew beyond finite numbers while replaying.",
                            "Training is too chaotic to explain: lower the peak learning rate or "
                            "use a larger batch.")
    return scores


def bytes_per_target(model: FunctionalModel, batch_shape: tuple[int, ...]) -> int:
    """Memory, in bytes, that one target adds to a step backwards; from the shapes alone."""
    saved = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal saved
        saved += tensor.numel() * tensor.element_size()
        return tensor

    shape_only = model.to("meta", model.theta0.dtype)
    theta = shape_only.theta0.clone().requires_grad_()
    inputs = torch.empty(batch_shape, device="meta", dtype=theta.dtype)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        shape_only(theta, shape_only.buffers0, inputs, training=True)
    return TANGENT_COPIES * saved + 6 * theta.numel() * theta.element_size()


def chunk_that_fits(per_target: int, targets: int, device: torch.device) -> int:
    """Targets a pass, so that their tangents take at most a quarter of the device's memory, and
    half of what is free: where memory is ample, the same number whatever else the run keeps in it,
    for sums of other shapes are rounded differently."""
    fit = min(memory_total(device) // 4, memory_free(device) // 2) // per_target
    return int(max(1, min(fit, targets, LARGEST_CHUNK[device.type])))
