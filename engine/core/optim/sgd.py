"""SGD with momentum μ and weight decay δ, as `torch.optim.SGD` with dampening 0 (its first step,
where the momentum buffer is set to the gradient, is the same from a buffer of zeros):

    d  = g + δ θ          (δ masked to the parameters that decay)
    m' = μ m + d
    θ' = θ − η (d + μ m')     Nesterov
    θ' = θ − η m'             otherwise

The pullback takes the adjoint λ' = dφ/d(θ', m') to

    a  = λm' − η μ λθ',  v = a − η λθ'     Nesterov
    a  = v = λm' − η λθ'                   otherwise
    λm = μ a,   λθ = λθ' + δ v   (the part that does not pass through g),   v = dφ/dg

It is linear in (θ', m') and asks for neither state nor gradient: SGD goes backwards from θ alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.config import Recipe
from engine.core.state import Opt
from engine.core.stream import StepInputs


@dataclass(frozen=True)
class SGD:
    """See the module's docstring. An `engine.core.optim.base.Optimizer`."""

    momentum: float  # μ
    nesterov: bool
    decay_P: Tensor  # δ of each parameter, [P]

    slots = ("momentum",)
    replay_needs = ()
    needs_grad = False

    def init(self, theta: Tensor) -> Opt:
        return (torch.zeros_like(theta),)

    def update(self, theta: Tensor, opt: Opt, grad: Tensor, inputs: StepInputs) -> tuple[Tensor, Opt]:
        (m,) = opt
        d = grad + self.decay_P * theta
        m = self.momentum * m + d
        return theta - inputs.lr * (d + self.momentum * m if self.nesterov else m), (m,)

    def pullback(
        self, theta: Tensor, opt: Opt, grad: Tensor | None, inputs: StepInputs, adj_theta: Tensor, adj_opt: Opt
    ) -> tuple[Tensor, Opt, Tensor]:
        (adj_m,) = adj_opt
        a = adj_m - inputs.lr * (self.momentum if self.nesterov else 1.0) * adj_theta
        v = a - inputs.lr * adj_theta if self.nesterov else a
        return adj_theta + self.decay_P * v, (self.momentum * a,), v


def sgd(recipe: Recipe, decay_P: Tensor) -> SGD:
    """The optimizer of a recipe; `decay_P` [P] is the weight decay of each parameter."""
    return SGD(recipe.momentum, recipe.nesterov, decay_P)
