"""One training step, and the same step backwards. Everything else calls these two.

Forwards, with example weights w (all 1 in the real run) and a constant batch size B:

    L(θ, b, w) = (1/B) Σ_i w_i ℓ_i(θ, b)      g = ∇θ L
    (θ, o)' = optimizer(θ, o, g)               b' = buffers after the forward pass

with ℓ_i of `engine.core.loss`.

Backwards, for K targets at once. With v = dφ/dg from the optimizer's pullback and the pseudo-loss

    L̃(θ, b, ε) = L(θ, b, w) + ε ⟨λb', b'(θ, b)⟩

the tangent of ∇(θ,b) L̃ in direction (θ: v, ε: 1) at ε = 0 is everything that is missing:

    its θ part:  (∂g/∂θ)ᵀ v + (∂b'/∂θ)ᵀ λb'     its b part:  (∂g/∂b)ᵀ v + (∂b'/∂b)ᵀ λb'
    and the tangent of ℓ_i is ∇ℓ_i · v, so that dφ/dw_i += (1/B) ∇ℓ_i · v.

One forward-over-reverse pass gives all four (g is a gradient, so its Jacobian is symmetric; a
model that detaches something breaks that, and `engine.core.check` finds it). All targets share the
primal computation: only the tangents carry a target dimension. After arXiv 2503.13751; the
adjoint of the buffers and the many targets are this project's. Cost: about two training steps
a target, and one gradient a step for an optimizer whose pullback reads it.
"""

import contextlib
import threading
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.func import grad, jvp, vjp, vmap

from engine.core import zero_tangents
from engine.core.optim.base import Optimizer
from engine.core.precision import computed_in
from engine.core.state import Adjoint, State
from engine.core.stream import StepInputs
from engine.models.functional import FunctionalModel

zero_tangents.register()

# torch keeps the level of forward-mode differentiation in a global: two threads in it at once break each other.
forward_mode = threading.Lock()


class Linearized(Protocol):
    """A step's gradient at one state, and the derivative of that gradient in any direction."""

    @property
    def gradient(self) -> Tensor | None:
        """g [P]; None where it was not asked for."""
        ...

    def tangents(self, v_KP: Tensor, adjoint_KQ: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of ∇(θ,b) L̃ in the directions (v, 1), see the module: its θ part [K, P], its b part [K, Q], and the
        tangents of ℓ [K, B]."""
        ...


class Passes(Protocol):
    """The two passes through the model that steps are made of: as they are here, or compiled (`engine.core.compiled`).

    Both keep to the precision in which they were made, and return tensors of the state's own.
    """

    @property
    def chunk(self) -> int | None:
        """Targets that a pass backwards carries at a time; None: all."""
        ...

    def fewer(self) -> "Passes | None":
        """The same with half as many targets a pass; None where there are no fewer."""
        ...

    def gradient(self, state: State, inputs: StepInputs) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """g [P]; and the loss L, and the buffers after the pass [Q]."""
        ...

    def linearize(self, state: State, inputs: StepInputs, needs_grad: bool) -> Linearized:
        """The step at this state; `needs_grad`: whether its gradient is asked for."""
        ...


def step(
    passes: Passes | FunctionalModel, optimizer: Optimizer, state: State, inputs: StepInputs
) -> tuple[State, Tensor]:
    """The next state, and the loss L (a scalar)."""
    g, (value, buffers) = as_passes(passes).gradient(state, inputs)
    theta, opt = optimizer.update(state.theta, state.opt, g, inputs)
    return State(theta, opt, buffers), value


def step_back(
    passes: Passes | FunctionalModel,
    optimizer: Optimizer,
    state: State,
    inputs: StepInputs,
    adjoint: Adjoint,
    chunk: int | None = None,
) -> tuple[Adjoint, Tensor]:
    """The adjoint before the step whose *starting* state is given, and dφ/dw [K, B] of the step.

    Of `state.opt`, only what the optimizer `replay_needs` is read. `chunk` targets are carried
    through one pass at a time; compiled passes have a number of their own.
    """
    at = as_passes(passes, chunk).linearize(state, inputs, optimizer.needs_grad)
    direct, opt, v = optimizer.pullback(state.theta, state.opt, at.gradient, inputs, adjoint.theta, adjoint.opt)
    through_theta, buffers, loss_tangent = at.tangents(v, adjoint.buffers)
    return Adjoint(direct + through_theta, opt, buffers), loss_tangent / inputs.w_B.shape[0]


def as_passes(passes: Passes | FunctionalModel, chunk: int | None = None) -> Passes:
    """A model's own passes, `chunk` targets at a time, in the precision that it is in; others as they are."""
    return Eager(passes, chunk=chunk) if isinstance(passes, FunctionalModel) else passes


@dataclass(frozen=True)
class Eager:
    """`Passes` that torch runs operation by operation. `precision` None: that of the model, in torch's present ways.
    `chunk` targets are carried through a pass at a time, all where None."""

    model: FunctionalModel
    precision: str | None = None
    chunk: int | None = None

    def gradient(self, state: State, inputs: StepInputs) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        with self._computed(inputs):
            return gradient(self.model, state, inputs)

    def linearize(self, state: State, inputs: StepInputs, needs_grad: bool) -> "EagerLinearized":
        return EagerLinearized(self, state, inputs, self.gradient(state, inputs)[0] if needs_grad else None)

    def fewer(self) -> "Eager | None":
        return replace(self, chunk=self.chunk // 2) if self.chunk and self.chunk > 1 else None

    def _computed(self, inputs: StepInputs) -> contextlib.AbstractContextManager[None]:
        return computed_in(self.precision, inputs.w_B.device) if self.precision else contextlib.nullcontext()


@dataclass(frozen=True)
class EagerLinearized:
    """A `Linearized` that keeps nothing: each call runs the primal pass anew, once for all its targets."""

    passes: Eager
    state: State
    inputs: StepInputs
    gradient: Tensor | None

    def tangents(self, v_KP: Tensor, adjoint_KQ: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        passes, state, inputs = self.passes, self.state, self.inputs
        with passes._computed(inputs), forward_mode:
            return vmap(lambda v, b: tangents(passes.model, state, inputs, v, b), chunk_size=passes.chunk)(
                v_KP, adjoint_KQ
            )


def tangents(
    model: FunctionalModel, state: State, inputs: StepInputs, v_P: Tensor, adjoint_Q: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`Linearized.tangents` of one target: [P], [Q], [B]. The caller holds torch's forward mode."""
    zero = state.theta.new_zeros(())
    one = torch.ones_like(zero)

    def pseudo_loss(theta: Tensor, buffers: Tensor, epsilon: Tensor):
        value, (losses, after) = _loss(model, theta, buffers, inputs)
        return value + epsilon * (adjoint_Q * after).sum(), losses

    def gradients(theta: Tensor, epsilon: Tensor):
        return grad(pseudo_loss, argnums=(0, 1), has_aux=True)(theta, state.buffers, epsilon)

    of_gradients, of_losses = jvp(gradients, (state.theta, zero), (v_P, one))[1]
    return *of_gradients, of_losses


def gradient_and_tangents(
    model: FunctionalModel, state: State, inputs: StepInputs, v_P: Tensor, adjoint_Q: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """g [P], and then what `tangents` returns, in a form whose primal pass is the same for all targets.

    `tangents` has λb' in its primal pass, times ε = 0. Here it is a tangent alone: the pullback of (θ, b) ↦ (L, b') at
    the cotangent (1, c), of which c = 0 moves in direction λb'. The same sums, rounded in another order.
    """
    zero_Q = torch.zeros_like(state.buffers)

    def gradients(theta: Tensor, c_Q: Tensor):
        def forward(theta: Tensor, buffers: Tensor):
            value, (losses, after) = _loss(model, theta, buffers, inputs)
            return (value, after), losses

        at: Any = vjp(forward, theta, state.buffers, has_aux=True)
        (value, _), pullback, losses = at
        return *pullback((torch.ones_like(value), c_Q)), losses

    both: Any = jvp(gradients, (state.theta, zero_Q), (v_P, adjoint_Q))
    primal, of_gradients = both
    return primal[0], *of_gradients


def gradient(model: FunctionalModel, state: State, inputs: StepInputs) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """g [P]; and the loss L, and the buffers after the pass [Q]."""

    def loss(theta: Tensor):
        value, (_, buffers) = _loss(model, theta, state.buffers, inputs)
        return value, (value.detach(), buffers)

    return grad(loss, has_aux=True)(state.theta)


def _loss(
    model: FunctionalModel, theta: Tensor, buffers: Tensor, inputs: StepInputs
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """L; and the examples' losses ℓ [B], and the buffers after the pass [Q]."""
    images, labels = inputs.batch
    logits, after = model(theta, buffers, images, training=True, key=inputs.key, index_B=inputs.index_B)
    losses = inputs.loss(logits, labels)
    return (inputs.w_B * losses).sum() / inputs.w_B.shape[0], (losses, after)
