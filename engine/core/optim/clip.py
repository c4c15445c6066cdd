"""Gradient clipping by the global norm, before any optimizer, as `torch.nn.utils.clip_grad_norm_`:

    n = ‖g‖ over all parameters,   k = min(1, C / (n + 1e-6)),   g' = k g

Where it clips (k < 1), with v' = dφ/dg' from the optimizer's pullback,

    dφ/dg = k v' − k / ((n + 1e-6) n) ⟨g, v'⟩ g

which is nearly the part of k v' across g: lengthening a gradient that is clipped changes next to nothing. Elsewhere
dφ/dg = v'. Each example's weight thus reaches every parameter, through n. It reads the gradient, so a step backwards
takes one gradient more than with SGD alone.

When not to use it: where it clips at all, look at whether it must. At n + 1e-6 = C the step has a kink; a training that
crosses it often (C near the usual norm) is less smooth, and its scores predict less. Choose C so large that it catches
outliers only, or so small that it always clips.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.core.optim.base import Optimizer
from engine.core.state import Opt
from engine.core.stream import StepInputs

ADDED = 1e-6  # torch's, to the norm


@dataclass(frozen=True)
class Clipped:
    """`inner` on clipped gradients; see the module. An `engine.core.optim.base.Optimizer` with the slots of `inner`."""

    inner: Optimizer
    norm: float  # C, above 0
    slots: tuple[str, ...] = field(init=False)
    replay_needs: tuple[int, ...] = field(init=False)

    needs_grad = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "slots", self.inner.slots)
        object.__setattr__(self, "replay_needs", self.inner.replay_needs)

    def init(self, theta: Tensor) -> Opt:
        return self.inner.init(theta)

    def update(self, theta: Tensor, opt: Opt, grad: Tensor, inputs: StepInputs) -> tuple[Tensor, Opt]:
        return self.inner.update(theta, opt, self._factor(grad.norm()) * grad, inputs)

    def pullback(
        self, theta: Tensor, opt: Opt, grad: Tensor | None, inputs: StepInputs, adj_theta: Tensor, adj_opt: Opt
    ) -> tuple[Tensor, Opt, Tensor]:
        assert grad is not None, "the pullback of clipping reads the gradient: needs_grad"
        n = grad.norm()
        factor = self._factor(n)
        clipped = factor * grad if self.inner.needs_grad else None
        direct, before, v = self.inner.pullback(theta, opt, clipped, inputs, adj_theta, adj_opt)
        along = (v @ grad)[:, None] / ((n + ADDED) * n) * grad  # [K, P]
        return direct, before, factor * torch.where((factor < 1) & (n > 0), v - along, v)

    def _factor(self, n: Tensor) -> Tensor:
        """k, a scalar."""
        return (self.norm / (n + ADDED)).clamp(max=1.0)
