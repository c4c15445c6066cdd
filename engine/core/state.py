"""The values that move through the engine. Shapes: P parameters, Q buffers, K targets, B batch."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor


class State(NamedTuple):
    """Every float that affects the rest of training."""

    theta: Tensor  # [P] parameters
    momentum: Tensor  # [P] the optimizer's
    buffers: Tensor  # [Q] the model's, such as running statistics


class Adjoint(NamedTuple):
    """dφ_k/ds for each of K targets φ, s the state at some step."""

    theta: Tensor  # [K, P]
    momentum: Tensor  # [K, P]
    buffers: Tensor  # [K, Q]


Put = Callable[[int, State], None]

# Runs the steps from `start` to before `stop`, putting the state before each; gives the last state.
Forward = Callable[[State, int, int, Put], State]


class Trajectory(Protocol):
    def put(self, t: int, state: State) -> None: ...  # training, t = 0 … T − 1
    def finish(self, final: State) -> None: ...  # training, the state after all steps
    def get(self, t: int) -> State: ...  # replay, t = T − 1 … 0; no momentum
    def rebuild(self) -> None: ...  # all that is missing or damaged
    def close(self) -> None: ...
