"""Adam (arXiv 1412.6980) and AdamW (1711.05101), as `torch.optim.Adam` and `AdamW`, with ε_r inside the root as in
optax. Step s = t + 1, rate η, weight decay δ (of each parameter), in Adam coupled and in AdamW decoupled:

    d  = g + δ θ                              Adam        d = g      AdamW
    m' = β1 m + (1 − β1) d                    v' = β2 v + (1 − β2) d²
    m̂  = m' / (1 − β1ˢ)                       r  = √(v' / (1 − β2ˢ) + ε_r)
    θ' = θ − η m̂ / (r + ε)                    Adam
    θ' = (1 − η δ) θ − η m̂ / (r + ε)          AdamW

The pullback takes the adjoint λ' = dφ/d(θ', m', v') to

    a  = λm' − η λθ' / ((1 − β1ˢ) (r + ε))                             adjoint of m', in all
    b  = λv' + η λθ' m̂ / (2 r (r + ε)² (1 − β2ˢ))                      adjoint of v', in all
    c  = (1 − β1) a + 2 (1 − β2) d b                                   adjoint of d
    λm = β1 a,   λv = β2 b,   dφ/dg = c
    λθ = λθ' + δ c   Adam      (1 − η δ) λθ'   AdamW                   (without what passes through g)

It reads θ, m, v and g, so a step that is kept for a replay is three times as large as SGD's, and a step backwards
takes one gradient more.

Where r = 0. Without ε_r that is where v' = 0: a parameter whose every gradient so far was 0 (a unit that has not
fired, a pixel that is always black), or has squares below the smallest float. There b's second term is 0 / 0, and
counts as 0. That is the derivative, and not a convention: near g = 0 the first step is −η m̂ / (k |g| + ε) with m̂
proportional to g, of which the derivative at 0 goes through m̂ alone; what goes through v' vanishes with |g|. It is
finite, but of the order of η / ε, 1e8 η: within ε of 0 Adam's step is a steep sign function, and a gradient that is 0
but for rounding (that of a bias before BatchNorm) moves its parameter by the rounding. So give `eps_root`, 1e-8 or
more, to every training that is to be explained, as MAGIC's AdamW has one (arXiv 2503.13751, 2504.16430): the step is
then smooth in g on a scale of √ε_r. docs/recipes.md has the measurement.

When not to use it: where SGD trains as well. SGD's scores take a third of the disk, and less time.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.config import Recipe
from engine.core.state import Opt
from engine.core.stream import StepInputs


@dataclass(frozen=True)
class Adam:
    """See the module's docstring. An `engine.core.optim.base.Optimizer`."""

    beta1: float  # β1, of the mean of the gradients
    beta2: float  # β2, of the mean of their squares
    eps: float  # ε, added to the root
    eps_root: float  # ε_r, added inside the root
    decay_P: Tensor  # δ of each parameter, [P]
    decoupled: bool  # AdamW

    slots = ("exp_avg", "exp_avg_sq")
    replay_needs = (0, 1)
    needs_grad = True

    def init(self, theta: Tensor) -> Opt:
        return torch.zeros_like(theta), torch.zeros_like(theta)

    def update(self, theta: Tensor, opt: Opt, grad: Tensor, inputs: StepInputs) -> tuple[Tensor, Opt]:
        _, m, v, root = self._moments(theta, opt, grad, inputs.t)
        if self.decoupled:
            theta = theta - inputs.lr * self.decay_P * theta
        return theta - inputs.lr * (m / self._correction(self.beta1, inputs.t)) / (root + self.eps), (m, v)

    def pullback(
        self, theta: Tensor, opt: Opt, grad: Tensor | None, inputs: StepInputs, adj_theta: Tensor, adj_opt: Opt
    ) -> tuple[Tensor, Opt, Tensor]:
        assert grad is not None, "Adam's pullback reads the gradient: needs_grad"
        adj_m, adj_v = adj_opt
        d, m, _, root = self._moments(theta, opt, grad, inputs.t)
        k1, k2 = self._correction(self.beta1, inputs.t), self._correction(self.beta2, inputs.t)
        below = root + self.eps
        # Of −m̂ / (r + ε) in v'. In this order no product of small numbers is lost before it is divided by.
        slope = torch.where(root > 0, m / k1 / below**2 / root / (2 * k2), 0.0)
        a = adj_m - inputs.lr * adj_theta / (k1 * below)
        b = adj_v + inputs.lr * adj_theta * slope
        c = (1 - self.beta1) * a + 2 * (1 - self.beta2) * d * b
        direct = adj_theta - inputs.lr * self.decay_P * adj_theta if self.decoupled else adj_theta + self.decay_P * c
        return direct, (self.beta1 * a, self.beta2 * b), c

    def _moments(self, theta: Tensor, opt: Opt, grad: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """d, m', v' and r, [P] each."""
        d = grad if self.decoupled else grad + self.decay_P * theta
        m = self.beta1 * opt[0] + (1 - self.beta1) * d
        v = self.beta2 * opt[1] + (1 - self.beta2) * d**2
        return d, m, v, (v / self._correction(self.beta2, t) + self.eps_root).sqrt()

    def _correction(self, beta: float, t: int) -> float:
        return 1 - beta ** (t + 1)


def adam(recipe: Recipe, decay_P: Tensor) -> Adam:
    """Weight decay `decay_P` [P] is added to the gradient, as in `torch.optim.Adam`."""
    return Adam(recipe.beta1, recipe.beta2, recipe.eps, recipe.eps_root, decay_P, decoupled=False)


def adamw(recipe: Recipe, decay_P: Tensor) -> Adam:
    """Weight decay `decay_P` [P] shrinks the parameters themselves, as in `torch.optim.AdamW`."""
    return Adam(recipe.beta1, recipe.beta2, recipe.eps, recipe.eps_root, decay_P, decoupled=True)
