"""Digests of what a training went through: its states, and what augmentation made of its images."""

import math

import torch

from engine.core.augment import example_means
from engine.core.optim.base import Optimizer
from engine.core.state import State
from engine.core.stream import Stream
from engine.errors import IntegrityError
from engine.trajectory.state_files import digest_of, named

LOOKED_AT = 64  # images of an epoch that are looked at, …
PIXELS = 1 << 20  # … or fewer, so that they hold at most so many numbers


def pixel_means(stream: Stream) -> tuple[float, ...]:
    """A number for the first, the second and the last epoch: the mean of the pixels of its first images as training
    sees them, each times a random weight of its own (`example_means`). Empty where nothing is augmented.

    An augmentation that computes something else moves it by about the part of the pixels that differ, over the square
    root of their number; other hardware, by its rounding alone. A SHA-256 could not tell the two apart.
    """
    if not stream.recipe.augment:
        return ()
    epochs = sorted({0, 1, stream.recipe.epochs - 1} & set(range(stream.recipe.epochs)))
    per_epoch = stream.steps // stream.recipe.epochs
    count = max(1, min(LOOKED_AT, PIXELS // math.prod(stream.data.shape)))
    means = []
    for epoch in epochs:
        index_B = torch.as_tensor(stream.plan[epoch * per_epoch][:count], device=stream.data.device)
        means_B = example_means(stream.batch(index_B, epoch)[0], index_B).tolist()
        means.append(math.fsum(means_B) / len(means_B))
    return tuple(means)


class Digests:
    """SHA-256 of the full states before step 0, before every `every`-th step from `start` on, and after the last of
    `steps`.

    `optimizer` names the states' parts. `known` are those recorded before, by step. `start` is the first step that a
    replay goes back to.
    """

    def __init__(
        self, optimizer: Optimizer, every: int, steps: int, known: dict[int, str] | None = None, start: int = 0
    ):
        self.optimizer, self.every, self.steps, self.known = optimizer, every, steps, dict(known or {})
        self.start = start

    def is_recorded(self, t: int) -> bool:
        """Whether the state before step t (after the last, for t = `steps`) is one that has a digest."""
        return t in (0, self.steps) or self.begins_segment(t)

    def begins_segment(self, t: int) -> bool:
        """Whether step t is the first of a segment."""
        return t >= self.start and (t - self.start) % self.every == 0

    def segment_of(self, t: int) -> int:
        """The first step of the segment that holds step t, which is none before `start`."""
        return t - (t - self.start) % self.every

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
        return self.start if t < self.start else min(self.segment_of(t) + self.every, self.steps)
