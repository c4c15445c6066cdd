"""A replay in another precision of states than its training: float64 for a training in float32, or the other way."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.core.loss import ExampleLoss
from engine.core.state import State
from engine.core.step import Linearized, Passes
from engine.core.stream import StepInputs


@dataclass(frozen=True, eq=False)
class Converted:
    """`Passes` of a model in `dtype`, for states and adjoints of another one, which they stay."""

    inner: Passes
    dtype: torch.dtype

    @property
    def chunk(self) -> int | None:
        return self.inner.chunk

    def fewer(self) -> "Converted | None":
        inner = self.inner.fewer()
        return None if inner is None else Converted(inner, self.dtype)

    def gradient(self, state: State, inputs: StepInputs) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        g, (value, buffers) = self.inner.gradient(*converted(state, inputs, self.dtype))
        return g.to(state.theta), (value.to(state.theta), buffers.to(state.theta))

    def linearize(self, state: State, inputs: StepInputs, needs_grad: bool) -> Linearized:
        at = self.inner.linearize(*converted(state, inputs, self.dtype), needs_grad)
        return ConvertedLinearized(at, self.dtype, None if at.gradient is None else at.gradient.to(state.theta))


@dataclass(frozen=True, eq=False)
class ConvertedLinearized:
    inner: Linearized
    dtype: torch.dtype
    gradient: Tensor | None

    def tangents(self, v_KP: Tensor, adjoint_KQ: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        theta, buffers, losses = self.inner.tangents(v_KP.to(self.dtype), adjoint_KQ.to(self.dtype))
        return theta.to(v_KP), buffers.to(v_KP), losses.to(v_KP)


def converted(state: State, inputs: StepInputs, dtype: torch.dtype) -> tuple[State, StepInputs]:
    """Both in another precision."""
    images, labels = inputs.batch
    weights = inputs.loss.class_weights
    loss = ExampleLoss(inputs.loss.smoothing, None if weights is None else weights.to(dtype))
    state = State(state.theta.to(dtype), tuple(part.to(dtype) for part in state.opt), state.buffers.to(dtype))
    return state, dataclasses.replace(inputs, batch=(images.to(dtype), labels), w_B=inputs.w_B.to(dtype), loss=loss)
