"""Learning rates, batches and checkpoint spacing as pure functions of integers.

Training, replay and retraining ask for step t and get the same answer, whatever they asked
before; so a step is rebuilt from its number alone.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np

from engine.config import Recipe

# OneCycleLR's defaults (arXiv 1708.07120): the rate starts at peak / 25 and ends at that / 10,000.
START_DIV, END_DIV = 25.0, 1e4


def learning_rate(recipe: Recipe, t: int, steps: int) -> float:
    """Learning rate of step `t` of `steps`, t from 0.

    one-cycle: `torch.optim.lr_scheduler.OneCycleLR` with `pct_start=warmup` and constant
    momentum. cosine: a linear warm-up, then peak · (1 + cos(π s)) / 2 with s from 0 towards 1.
    constant: a linear warm-up, then the peak.
    """
    if not 0 <= t < steps:
        raise ValueError(f"step {t} is not one of {steps}")
    peak = recipe.peak_lr
    if recipe.schedule == "one-cycle":
        # The peak lies at step `turn`, which is a fraction, and before step 0 (at least −1) where the
        # warm-up is shorter than a step.
        turn, last = recipe.warmup * steps - 1, steps - 1
        start, end = peak / START_DIV, peak / START_DIV / END_DIV
        if t <= turn:
            return _cosine(start, peak, t / turn if turn else 1.0)
        return _cosine(peak, end, (t - turn) / (last - turn))
    warmup = round(recipe.warmup * steps)
    if t < warmup:
        return peak * (t + 1) / (warmup + 1)
    if recipe.schedule == "cosine":
        return _cosine(peak, 0.0, (t - warmup) / (steps - warmup))
    return peak


def rates_were_others(recipe: Recipe, steps: int) -> bool:
    """Whether runs that did not record their rates were trained with other ones: of a one-cycle whose warm-up is
    shorter than a step, the peak lay at step 0, where torch's lies before it."""
    return recipe.schedule == "one-cycle" and (recipe.warmup * steps < 1 or steps == 1)


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * fraction))


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
        epoch, k = divmod(t, self.n // self.batch_size)
        rows = slice(k * self.batch_size, (k + 1) * self.batch_size)
        return _permutation(self.n, self.seed, epoch)[rows].copy()


@functools.lru_cache(maxsize=4)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n)


def step_key(recipe: Recipe, t: int) -> int:
    """Seed of what is random in step t: of the recipe's seed and t alone, below 2⁶³."""
    return int(np.random.SeedSequence([recipe.seed, t]).generate_state(1, np.uint64)[0] >> 1)


def plan_for(recipe: Recipe, n: int) -> BatchPlan:
    return BatchPlan(n, recipe.batch_size, recipe.epochs, recipe.seed)
