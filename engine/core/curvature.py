"""The largest curvature of a step times its rate: whether the step is at rest, or throws what it meets apart.

A step of gradient descent on a quadratic with curvature λ multiplies the distance from its minimum by 1 − η λ, and
beyond η λ = 2 by more than 1. With a rate of each parameter, D = diag(η_p), the number is

    s = λ_max(√D (H + diag(δ)) √D)          H = ∇²L of the batch, δ the weight decay where it is added to the gradient

    SGD      D = η f                        f the factors of parameter groups; times k where the gradient is clipped
    Adam     D = η f / ((1 − β1ˢ) (r + ε))   s = t + 1, r the root of the second moment (`engine.core.optim.adam`)

as in arXiv 2103.00065 (sharpness) and 2207.14484 (its preconditioned form). What it may be at most depends on the
momentum: `engine.analysis.stability.limit`. Lanczos' iteration finds it from Hessian-vector products, each one pass
of `linearize` in one direction; from the gradient's own direction, 8 of them give it to a few per cent, from below.

When not to rely on it: H is that of one batch. The mean over batches is flatter, so a batch above the limit is no
proof of chaos, and a network with kinks (ReLU) is chaotic below it: its kinks have no curvature.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from engine.config import Recipe
from engine.core.optim.groups import decay_and_factors
from engine.core.state import State
from engine.core.step import Passes, as_passes
from engine.core.stream import StepInputs
from engine.models.functional import FunctionalModel


def curvature_times_rate(
    model: FunctionalModel,
    recipe: Recipe,
    state: State,
    inputs: StepInputs,
    products: int,
    passes: Passes | None = None,
) -> float:
    """s of the step from `state` with `inputs`; NaN where the loss is not finite. Of an optimizer that is none of the
    engine's own, D = η f. `passes` through the model; its own, one target at a time, where None."""
    passes = passes or as_passes(model, chunk=1)
    at = passes.linearize(state, inputs, needs_grad=True)
    grad = at.gradient
    assert grad is not None, "asked for"
    rate_P, decay_P = rates(model, recipe, state, inputs, grad)
    root_P, nothing = rate_P.sqrt(), state.buffers.new_zeros(1, len(state.buffers))

    def product(v_P: Tensor) -> Tensor:
        along = root_P * v_P
        return root_P * (at.tangents(along[None], nothing)[0][0] + decay_P * along)

    noise = torch.randn(len(grad), generator=torch.Generator().manual_seed(0)).to(grad)
    return largest_eigenvalue(product, _unit(root_P * grad) + 0.1 * _unit(noise), products)


def rates(
    model: FunctionalModel, recipe: Recipe, state: State, inputs: StepInputs, grad_P: Tensor
) -> tuple[Tensor, Tensor]:
    """The diagonal of D, and δ of each parameter where it is coupled, else 0: [P] each."""
    decay_P, factor_P = decay_and_factors(model, recipe)
    rate_P, clipped = inputs.lr * factor_P, grad_P
    if recipe.clip_norm:
        factor = (recipe.clip_norm / (grad_P.norm() + 1e-6)).clamp(max=1.0)
        clipped = factor * grad_P
    if recipe.optimizer in ("adam", "adamw"):
        coupled = clipped + decay_P * state.theta if recipe.optimizer == "adam" else clipped
        second = recipe.beta2 * state.opt[1] + (1 - recipe.beta2) * coupled**2
        root = (second / (1 - recipe.beta2 ** (inputs.t + 1)) + recipe.eps_root).sqrt() + recipe.eps
        rate_P = rate_P / ((1 - recipe.beta1 ** (inputs.t + 1)) * root)
    if recipe.clip_norm:
        rate_P = factor * rate_P
    return rate_P, torch.zeros_like(decay_P) if recipe.optimizer == "adamw" else decay_P


def largest_eigenvalue(product: Callable[[Tensor], Tensor], start: Tensor, products: int) -> float:
    """Of a symmetric map on [P], the largest, not the largest in size: by Lanczos' three-term recurrence, which keeps
    two vectors. Its copies of values that it has found already do not matter to the largest one. NaN where the map
    gives what is not finite."""
    before, v, between = torch.zeros_like(start), _unit(start), 0.0
    diagonal, beside = [], []
    for _ in range(products):
        w = product(v)
        along = torch.dot(w, v).item()
        w = w - along * v - between * before
        between = w.norm().item()
        diagonal.append(along)
        beside.append(between)
        if not between > 1e-7 * max(map(abs, diagonal)):  # all of what the start reaches, or nothing finite
            break
        before, v = v, w / between
    small = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if len(diagonal) > 1:
        off = torch.tensor(beside[: len(diagonal) - 1], dtype=torch.float64)
        small = small + torch.diag(off, 1) + torch.diag(off, -1)
    return torch.linalg.eigvalsh(small).max().item() if small.isfinite().all() else float("nan")


def _unit(v: Tensor) -> Tensor:
    norm = v.norm()
    return v / norm if norm > 0 else v
