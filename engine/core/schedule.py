"""Learning rates, batches and checkpoint spacing as pure functions of integers.

Training, replay and retraining ask for step t and get the same answer, whatever they asked
before; so a step is rebuilt from its number alone.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np

from engine.config import Recipe


def learning_rate(recipe: Recipe, t: int, steps: int) -> float:
    """Learning rate of step `t` of `steps`, t from 0. W = `warmup_steps`, or warmup · steps where that is 0.

    one-cycle     `torch.optim.lr_scheduler.OneCycleLR` with `pct_start` = W / steps, its `div_factor`,
                  `final_div_factor` and `anneal_strategy`, and constant momentum (arXiv 1708.07120)
    cosine        peak · (1 + cos(π s)) / 2, with s = (t − W) / (steps − W) from 0 towards 1
    polynomial    peak · (1 − s)^power
    step          peak · gamma^k, k of the milestones m being behind: t ≥ round(m · steps)
    constant      peak

    All but one-cycle begin with peak · (t + 1) / (W + 1) for t < W, W being rounded.
    """
    if not 0 <= t < steps:
        raise ValueError(f"step {t} is not one of {steps}")
    peak, before = recipe.peak_lr, recipe.warmup_steps or recipe.warmup * steps
    if recipe.schedule == "one-cycle":
        # The peak lies at step `turn`, which is a fraction, and before step 0 (at least −1) where the
        # warm-up is shorter than a step.
        turn, last = before - 1, steps - 1
        start = peak / recipe.div_factor
        leg = _LEGS[recipe.anneal]
        if t <= turn:
            return leg(start, peak, t / turn if turn else 1.0)
        return leg(peak, start / recipe.final_div_factor, (t - turn) / (last - turn))
    warmup = round(before)
    if t < warmup:
        return peak * (t + 1) / (warmup + 1)
    fraction = (t - warmup) / (steps - warmup)
    if recipe.schedule == "cosine":
        return _cosine(peak, 0.0, fraction)
    if recipe.schedule == "polynomial":
        return peak * (1 - fraction) ** recipe.power
    if recipe.schedule == "step":
        return peak * recipe.gamma ** sum(t >= round(m * steps) for m in recipe.milestones)
    return peak


def rates_were_others(recipe: Recipe, steps: int) -> bool:
    """Whether runs that did not record their rates were trained with other ones: of a one-cycle whose warm-up is
    shorter than a step, the peak lay at step 0, where torch's lies before it."""
    return recipe.schedule == "one-cycle" and (recipe.warmup * steps < 1 or steps == 1)


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * fraction))


def _linear(start: float, end: float, fraction: float) -> float:
    return start + (end - start) * fraction


_LEGS = {"cosine": _cosine, "linear": _linear}


@dataclass(frozen=True)
class BatchPlan:
    """Which examples step t sees: `plan[t]` is int64 [B], for t in range(`len(plan)`).

    Each epoch is a permutation of the N examples, drawn from (seed, epoch), cut into batches
    of B; the N mod B left over at its end are dropped for that epoch.
    """

    n: int
    batch_size: int
    epochs: int
    seed: int

    def __len__(self) -> int:
        return self.epochs * (self.n // self.batch_size)

    def __getitem__(self, t: int) -> np.ndarray:
        if not 0 <= t < len(self):
            raise IndexError(f"step {t} is not one of {len(self)}")
        epoch, k = self.epoch(t), t % (self.n // self.batch_size)
        rows = slice(k * self.batch_size, (k + 1) * self.batch_size)
        return _permutation(self.n, self.seed, epoch)[rows].copy()

    def epoch(self, t: int) -> int:
        """The pass over the examples, from 0, that step t is part of."""
        return t // (self.n // self.batch_size)


@functools.lru_cache(maxsize=4)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n)


def step_key(recipe: Recipe, t: int) -> int:
    """Seed of what is random in step t: of the recipe's seed and t alone, below 2⁶³."""
    return int(np.random.SeedSequence([recipe.seed, t]).generate_state(1, np.uint64)[0] >> 1)


def plan_for(recipe: Recipe, n: int) -> BatchPlan:
    return BatchPlan(n, recipe.batch_size, recipe.epochs, recipe.seed)
