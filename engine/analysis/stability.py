"""Where in time a training is chaotic, and what to change. No torch.

Two signals, by step t of T:

    growth(t)      n(t) / n(T), n the norm of the adjoint dφ/dθ_t: how much further a change before step t moves the
                   target than the same change at the end; of the targets the largest (`engine.jobs.norms`)
    curvature(t)   largest curvature × rate (`engine.core.curvature`), with the `limit` of the optimizer

Over steps that are at rest the adjoint shrinks on its way back, for training forgets, and grows again by a small factor
over the first steps (the sample: 1 at the end, 0.4 in the middle, 1.6 at the start). In chaos it grows exponentially:
then every small change before that place becomes a large one, whatever it was, and scores of it foretell nothing. From
the first step on which no growth beyond `STEADY` follows, the training is steady: example weights that count from there
have scores that can be relied on as far as this shows. docs/trust.md has what that rule foretold.

The limits of a step with rate η on a quadratic of curvature λ (arXiv 2103.00065, appendix B; Adam: 2207.14484):

    gradient descent, heavy ball   η λ < 2 + 2 μ          Nesterov   η λ < (2 + 2 μ) / (1 + 2 μ)
    Adam, of its preconditioned curvature                            (2 + 2 β1) / (1 − β1)

With small batches a training is unstable below them already, at 2 (1 − μ) at the least (arXiv 2604.14108); a batch's
own curvature is above the mean of all. So the limit is a mark to read the curve by; the adjoint says where it broke.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from engine.analysis import trust
from engine.config import Recipe
from engine.runs.manifest import Manifest

STEADY, CHAOTIC = trust.SMOOTH_GROWTH, trust.CHAOTIC_GROWTH  # the verdict's limits of growth

MOST_LEFT_OUT = 0.9  # of the steps, which a window may leave out: less than a tenth explains too little of a training


def limit(recipe: Recipe) -> float | None:
    """The largest curvature × rate at which a step is stable; None for an optimizer that is not known here."""
    if recipe.optimizer == "sgd":
        most = 2 + 2 * recipe.momentum
        return most / (1 + 2 * recipe.momentum) if recipe.nesterov else most
    if recipe.optimizer in ("adam", "adamw"):
        return (2 + 2 * recipe.beta1) / (1 - recipe.beta1)
    return None


def spread(steps: int, looks: int) -> list[int]:
    """So many steps of a training, from the first to the last."""
    return sorted({round(i * (steps - 1) / max(1, looks - 1)) for i in range(looks)})


def growth(norms: Sequence[Sequence[float]]) -> list[float]:
    """By look, in the order of the steps: of K targets [K][L] the largest. What is not finite has grown without end; a
    target that nothing moves at the end has no growth to speak of."""
    return [max((_grown(target[i], target[-1]) for target in norms), default=1.0) for i in range(len(norms[0]))]


def _grown(norm: float, last: float) -> float:
    if not math.isfinite(norm):
        return math.inf
    return norm / last if last > 0 else 0.0


def steady_from(steps: Sequence[int], norms: Sequence[Sequence[float]]) -> int:
    """The first of the steps looked at, ascending, from which on no target's norm grows beyond `STEADY` on its way
    back."""
    start = steps[-1]
    for step, grown in zip(reversed(steps), reversed(growth(norms)), strict=True):
        if not grown <= STEADY:
            break
        start = step
    return start


@dataclass(frozen=True)
class Place:
    """Where a training of `steps` steps is chaotic: from step `first`, at which its weights begin to count, to before
    step `start`, all from 0; None where nothing of it is known. `growth`:
    of what changes before the first step looked at (infinite where the adjoint was not finite). `above`: the steps
    looked at whose curvature is beyond the limit, and `ratio` the largest curvature over it."""

    steps: int
    start: int | None = None
    growth: float | None = None
    above: tuple[int, ...] = ()
    ratio: float | None = None
    first: int = 0

    @property
    def broken(self) -> int:
        """Steps that are chaotic, as far as is known."""
        return 0 if self.start is None else self.start - self.first

    @property
    def window(self) -> int | None:
        """The step from which on the example weights could count; None where that helps nothing, or leaves too few."""
        return self.start if self.broken and (self.start or 0) <= MOST_LEFT_OUT * self.steps else None

    @property
    def part(self) -> tuple[int, str]:
        """Of the peak rate, to begin with instead: the divisor, and what it is called."""
        far = (self.growth or 0) > CHAOTIC or (self.ratio or 0) > 2
        return (3, "a third") if far else (2, "half")

    def rate(self, peak: float) -> float:
        """That part of a peak rate, to two figures."""
        return float(f"{peak / self.part[0]:.2g}")

    def in_words(self) -> str:
        """A sentence or two: what is known, and what to change."""
        if self.start is None:
            return "How changes grow was not recorded when this run was replayed: replay again to see it."
        grown = f"× {self.growth:.3g}" if self.growth is not None and math.isfinite(self.growth) else "without end"
        if not self.broken:
            begin = f"step {self.first + 1:,}, where weights begin to count," if self.first else "its first step"
            return f"The training is steady from {begin} on: early changes grow {grown} at most on their way."
        chaotic = "chaotic" if (self.growth or 0) > CHAOTIC else "not quite smooth"
        said = (
            f"Steps {self.first + 1:,} to {self.start:,} of {self.steps:,} are {chaotic}: what changes there grows "
            f"{grown} at most on its way to the end."
        )
        rate = f"start at {self.part[1]} of the peak rate"
        if self.window is None:
            return f"{said} That is nearly all of the training: {rate}, or use larger batches."
        return f"{said} Let the weights count from step {self.window + 1:,} on, or {rate}."


def place(steps: int, sidecar: dict | None, curvature: dict | None) -> Place:
    """Of a run of so many steps, by the norms of a score set's sidecar and the report of the job `curvature`, where
    there are such."""
    above, ratio = (), None
    if curvature is not None and curvature["limit"]:
        pairs = [(t, value) for t, value in zip(curvature["steps"], curvature["values"], strict=True)]
        above = tuple(t for t, value in pairs if value is None or value > curvature["limit"])
        ratio = max((value / curvature["limit"] for _, value in pairs if value is not None), default=None)
    looks = ascending(sidecar) if sidecar is not None else None
    if looks is None:
        return Place(steps, above=above, ratio=ratio)
    at, norms = looks
    return Place(steps, steady_from(at, norms), max(growth(norms)), above, ratio, at[0])


def of_run(record: Manifest) -> Place:
    """By all that is recorded of a run: of its score sets, the one in which changes grow most."""
    reports, _ = trust.sound(record, trust.CURVATURE)
    curvature = reports[0] if reports else None
    places = [place(record.steps or 0, sidecar, curvature) for sidecar in record.score_sets.sidecars()]
    known = [each for each in places if each.start is not None]
    return max(known, key=lambda each: each.broken, default=place(record.steps or 0, None, curvature))


def ascending(sidecar: dict) -> tuple[list[int], list[list[float]]] | None:
    """The steps looked at, and the norms of each target there [K][L], the first step first; None where an earlier
    version recorded none."""
    steps = sidecar.get("norm_steps")
    norms = [target.get("norms") for target in sidecar["targets"]]
    if not steps or not all(each is not None and len(each) == len(steps) for each in norms):
        return None
    order = sorted(range(len(steps)), key=steps.__getitem__)
    return [steps[i] for i in order], [[each[i] for i in order] for each in norms]
