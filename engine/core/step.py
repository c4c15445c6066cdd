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

import threading

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from engine.core.optim.base import Optimizer
from engine.core.state import Adjoint, State
from engine.core.stream import StepInputs
from engine.models.functional import FunctionalModel

# torch keeps the level of forward-mode differentiation in a global: two threads in it at once break each other.
_one_forward_mode = threading.Lock()


def step(model: FunctionalModel, optimizer: Optimizer, state: State, inputs: StepInputs) -> tuple[State, Tensor]:
    """The next state, and the loss L (a scalar)."""
    g, (value, buffers) = _gradient(model, state, inputs)
    theta, opt = optimizer.update(state.theta, state.opt, g, inputs)
    return State(theta, opt, buffers), value


def step_back(
    model: FunctionalModel,
    optimizer: Optimizer,
    state: State,
    inputs: StepInputs,
    adjoint: Adjoint,
    chunk: int | None = None,
) -> tuple[Adjoint, Tensor]:
    """The adjoint before the step whose *starting* state is given, and dφ/dw [K, B] of the step.

    Of `state.opt`, only what the optimizer `replay_needs` is read. `chunk` targets are carried
    through one pass at a time.
    """
    g = _gradient(model, state, inputs)[0] if optimizer.needs_grad else None
    direct, opt, v = optimizer.pullback(state.theta, state.opt, g, inputs, adjoint.theta, adjoint.opt)
    zero = state.theta.new_zeros(())
    one = torch.ones_like(zero)

    def pseudo_loss(theta: Tensor, buffers: Tensor, epsilon: Tensor, adjoint_b: Tensor):
        value, (losses, after) = _loss(model, theta, buffers, inputs)
        return value + epsilon * (adjoint_b * after).sum(), losses

    def one_target(v_P: Tensor, adjoint_b: Tensor):
        def gradient(theta, epsilon):
            return grad(pseudo_loss, argnums=(0, 1), has_aux=True)(theta, state.buffers, epsilon, adjoint_b)

        tangents, loss_tangent = jvp(gradient, (state.theta, zero), (v_P, one))[1]
        return *tangents, loss_tangent

    with _one_forward_mode:
        through_theta, buffers, loss_tangent = vmap(one_target, chunk_size=chunk)(v, adjoint.buffers)
    return Adjoint(direct + through_theta, opt, buffers), loss_tangent / inputs.w_B.shape[0]


def _gradient(model: FunctionalModel, state: State, inputs: StepInputs) -> tuple[Tensor, tuple[Tensor, Tensor]]:
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
