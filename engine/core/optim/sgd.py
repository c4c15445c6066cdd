"""Optimizers as pairs of pure functions: the update, and its pullback.

SGD with momentum μ and weight decay δ, as `torch.optim.SGD` with dampening 0 (its first step,
where the momentum buffer is set to the gradient, is the same from a buffer of zeros):

    d  = g + δ θ          (δ masked to the parameters that decay)
    m' = μ m + d
    θ' = θ − η (d + μ m')     Nesterov
    θ' = θ − η m'             otherwise

The pullback takes the adjoint λ' = dφ/d(θ', m') to

    a  = λm' − η μ λθ',  v = a − η λθ'     Nesterov
    a  = v = λm' − η λθ'                   otherwise
    λm = μ a,   λθ = λθ' + δ v   (the part that does not pass through g),   v = dφ/dg

It is linear in (θ', m') and asks for neither state: SGD goes backwards from θ and g alone.
"""

from torch import Tensor

from engine.config import Recipe
from engine.core.optim.base import Optimizer


def sgd(recipe: Recipe, decay_mask_P: Tensor) -> Optimizer:
    mu, nesterov = recipe.momentum, recipe.nesterov
    decay_P = recipe.weight_decay * decay_mask_P

    def update(theta: Tensor, momentum: Tensor, grad: Tensor, lr: float) -> tuple[Tensor, Tensor]:
        d = grad + decay_P * theta
        momentum = mu * momentum + d
        return theta - lr * (d + mu * momentum if nesterov else momentum), momentum

    def pullback(theta: Tensor, momentum: Tensor, lr: float) -> tuple[Tensor, Tensor, Tensor]:
        a = momentum - lr * (mu if nesterov else 1.0) * theta
        v = a - lr * theta if nesterov else a
        return theta + decay_P * v, mu * a, v

    return Optimizer(update, pullback)
