"""Digests of the states that a training went through."""

from engine.core.optim.base import Optimizer
from engine.core.state import State
from engine.errors import IntegrityError
from engine.trajectory.state_files import digest_of, named


class Digests:
    """SHA-256 of the full states before every `every`-th step and after the last of `steps`.

    `optimizer` names the states' parts. `known` are those recorded before, by step.
    """

    def __init__(self, optimizer: Optimizer, every: int, steps: int, known: dict[int, str] | None = None):
        self.optimizer, self.every, self.steps, self.known = optimizer, every, steps, dict(known or {})

    def is_recorded(self, t: int) -> bool:
        """Whether the state before step t (after the last, for t = `steps`) is one that has a digest."""
        return t % self.every == 0 or t == self.steps

    def note(self, t: int, state: State) -> None:
        """Records the digest of a state that has one, or compares it with the one in `known`: `IntegrityError` where
        they differ."""
        if not self.is_recorded(t):
            return
        digest = digest_of(named(state, self.optimizer))
        if self.known.setdefault(t, digest) != digest:
            raise IntegrityError(
                f"The rebuilt state before step {t} is not the one that training went through "
                f"(SHA-256 {digest[:12]}… instead of {self.known[t][:12]}…).",
                "The run was made with other software, hardware or thread counts (the manifest names "
                "them): rebuild it there, or start a new run here.",
            )

    def after(self, t: int) -> int:
        """The first recorded step behind step t."""
        return min((t // self.every + 1) * self.every, self.steps)
