"""A dummy optimizer: RMSProp with a large ε, which unlike SGD goes backwards through its memory and its gradient.

v' = β v + (1 − β) g²,    θ' = θ − η g / √(v' + ε)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.config import OPTIMIZERS, Recipe
from engine.core.state import Opt
from engine.core.stream import StepInputs

BETA, EPSILON = 0.8, 1e-2


@dataclass(frozen=True)
class DummyRMS:
    slots = ("square",)
    replay_needs = (0,)
    needs_grad = True

    def init(self, theta: Tensor) -> Opt:
        return (torch.zeros_like(theta),)

    def update(self, theta: Tensor, opt: Opt, grad: Tensor, inputs: StepInputs) -> tuple[Tensor, Opt]:
        square = BETA * opt[0] + (1 - BETA) * grad**2
        return theta - inputs.lr * grad / (square + EPSILON).sqrt(), (square,)

    def pullback(
        self, theta: Tensor, opt: Opt, grad: Tensor | None, inputs: StepInputs, adj_theta: Tensor, adj_opt: Opt
    ) -> tuple[Tensor, Opt, Tensor]:
        assert grad is not None
        root = (BETA * opt[0] + (1 - BETA) * grad**2 + EPSILON).sqrt()
        adj_square = adj_opt[0] + adj_theta * inputs.lr * grad / (2 * root**3)
        adj_grad = 2 * (1 - BETA) * grad * adj_square - adj_theta * inputs.lr / root
        return adj_theta, (BETA * adj_square,), adj_grad


OPTIMIZERS.register("dummy-rms", lambda recipe, decay_mask_P: DummyRMS())


def recipe(**changes) -> Recipe:
    return Recipe(epochs=3, batch_size=6, peak_lr=0.05, seed=3, optimizer="dummy-rms", **changes)
