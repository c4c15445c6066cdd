"""The values that move through the engine. Shapes: P parameters, Q buffers, K targets, B batch, N examples."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor

# What an optimizer remembers from step to step: its slots in order, [P] each (SGD: one, the momentum).
Opt = tuple[Tensor, ...]


class State(NamedTuple):
    """Every float that affects the rest of training."""

    theta: Tensor  # [P] parameters
    opt: Opt  # the optimizer's slots, [P] each; empty ([0]) where a replay does not read them
    buffers: Tensor  # [Q] the model's, such as running statistics

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """All tensors, flat: theta, the slots, buffers."""
        return (self.theta, *self.opt, self.buffers)


class Adjoint(NamedTuple):
    """dφ_k/ds for each of K targets φ, s the state at some step: a State with K in front."""

    theta: Tensor  # [K, P]
    opt: Opt  # [K, P] each
    buffers: Tensor  # [K, Q]

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """All tensors, flat: theta, the slots, buffers."""
        return (self.theta, *self.opt, self.buffers)


Put = Callable[[int, State], None]

# Runs the steps from `start` to before `stop`, putting the state before each; gives the last state.
Forward = Callable[[State, int, int, Put], State]


class Recorder(Protocol):
    """What a training hands its states to."""

    def put(self, t: int, state: State) -> None:
        """The state before step t, for t = 0 … T − 1 in this order."""
        ...

    def finish(self, final: State) -> None:
        """The state after all steps. Returns once everything is where it is to stay."""
        ...


class Trajectory(Recorder, Protocol):
    """States that training went through, for a replay that asks for them backwards."""

    rebuilt: int  # steps run again so far

    def get(self, t: int) -> State:
        """The state before step t, with the slots that a step backwards reads. Raises `IntegrityError`
        where it can neither be read nor rebuilt."""
        ...

    def rebuild(self) -> None:
        """Trains again whatever is missing or damaged."""
        ...

    def close(self) -> None:
        """Gives up threads and memory; nothing is asked for afterwards."""
        ...
