"""One training step, and the same step backwards. Everything else calls these two.

Forwards, with example weights w (all 1 in the real run) and a constant batch size B:

    L(θ, b, w) = (1/B) Σ_i w_i ℓ_i(θ, b)      g = ∇θ L
    (θ, m)' = optimizer(θ, m, g)               b' = buffers after the forward pass

Backwards, for K targets at once. With v = dφ/dg from the optimizer's pullback and the pseudo-loss

    L̃(θ, b, ε) = L(θ, b, w) + ε ⟨λb', b'(θ, b)⟩

the tangent of ∇(θ,b) L̃ in direction (θ: v, ε: 1) at ε = 0 is everything that is missing:

    its θ part:  (∂g/∂θ)ᵀ v + (∂b'/∂θ)ᵀ λb'     its b part:  (∂g/∂b)ᵀ v + (∂b'/∂b)ᵀ λb'
    and the tangent of ℓ_i is ∇ℓ_i · v, so that dφ/dw_i += (1/B) ∇ℓ_i · v.

One forward-over-reverse pass gives all four (g is a gradient, so its Jacobian is symmetric; a
model that detaches something breaks that, and `engine.check` finds it). All targets share the
primal computation: only the tangents carry a target dimension. After arXiv 2503.13751; the
adjoint of the buffers and the many targets are this project's. Cost: about two training steps
a target.
"""

import threading

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, jvp, vmap

from engine.core.optim.base import Optimizer
from engine.core.state import Adjoint, State
from engine.models.functional import FunctionalModel

# torch keeps the level of forward-mode differentiation in a global: two threads in it at once break each other.
_one_forward_mode = threading.Lock()


def step(
    model: FunctionalModel, optimizer: Optimizer, state: State, batch: tuple[Tensor, Tensor], w_B: Tensor, lr: float
) -> tuple[State, Tensor]:
    """The next state, and the loss L (a scalar)."""

    def loss(theta):
        value, (_, buffers) = _loss(model, theta, state.buffers, batch, w_B)
        return value, (value.detach(), buffers)

    g, (value, buffers) = grad(loss, has_aux=True)(state.theta)
    theta, momentum = optimizer.update(state.theta, state.momentum, g, lr)
    return State(theta, momentum, buffers), value


def step_back(
    model: FunctionalModel,
    optimizer: Optimizer,
    state: State,
    batch: tuple[Tensor, Tensor],
    w_B: Tensor,
    lr: float,
    adjoint: Adjoint,
    chunk: int | None = None,
) -> tuple[Adjoint, Tensor]:
    """The adjoint before the step whose *starting* state is given, and dφ/dw [K, B] of the step.

    `state.momentum` is not used. `chunk` targets are carried through one pass at a time.
    """
    direct, momentum, v = optimizer.pullback(adjoint.theta, adjoint.momentum, lr)
    zero = state.theta.new_zeros(())
    one = torch.ones_like(zero)

    def pseudo_loss(theta, buffers, epsilon, adjoint_b):
        value, (losses, after) = _loss(model, theta, buffers, batch, w_B)
        return value + epsilon * (adjoint_b * after).sum(), losses

    def one_target(v_P, adjoint_b):
        def gradient(theta, epsilon):
            return grad(pseudo_loss, argnums=(0, 1), has_aux=True)(theta, state.buffers, epsilon, adjoint_b)

        _, (tangents, loss_tangent) = jvp(gradient, (state.theta, zero), (v_P, one))
        return *tangents, loss_tangent

    with _one_forward_mode:
        through_theta, buffers, loss_tangent = vmap(one_target, chunk_size=chunk)(v, adjoint.buffers)
    return (Adjoint(direct + through_theta, momentum, buffers), loss_tangent / w_B.shape[0])


def _loss(model, theta, buffers, batch, w_B):
    inputs, labels = batch
    logits, after = model(theta, buffers, inputs, training=True)
    losses = F.cross_entropy(logits, labels, reduction="none")
    return (w_B * losses).sum() / w_B.shape[0], (losses, after)
