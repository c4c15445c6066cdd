"""Digests of the states that a training went through."""

from engine.core.optim.base import Optimizer
from engine.core.state import State
from engine.errors import IntegrityError
from engine.trajectory.state_files import digest_of, named


class Digests:
    """SHA-256 of the full states before every `every`-th step and after the last of `steps`.

    `note` records one that is not in `known`, and compares one that is. `optimizer` names the
    states' parts.
    """

    def __init__(self, optimizer: Optimizer, every: int, steps: int, known: dict[int, str] | None = None):
        self.optimizer, self.every, self.steps, self.known = optimizer, every, steps, dict(known or {})

    def note(self, t: int, state: State) -> None:
        if t % self.every and t != self.steps:
            return
        found = digest_of(named(state, self.optimizer))
        if self.known.setdefault(t, found) != found:
            raise IntegrityError(
                f"The rebuilt state before step {t} is not the one that training went through "
                f"(SHA-256 {found[:12]}… instead of {self.known[t][:12]}…).",
                "The run was made with other software, hardware or thread counts (the manifest names "
                "them): rebuild it there, or start a new run here.",
            )

    def after(self, t: int) -> int:
        """The first recorded step behind step t."""
        return min((t // self.every + 1) * self.every, self.steps)
