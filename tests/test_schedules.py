"""Learning rates against torch's schedulers, and by lists; rates of older recipes bit for bit."""

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from engine.core import schedule
from engine.core.schedule import learning_rate
from tests.helpers import RECIPE
from tests.mutants import mutant

FILE = "engine/core/schedule.py"


def rates(recipe, steps: int, of=learning_rate) -> list[float]:
    return [of(recipe, t, steps) for t in range(steps)]


def torchs(build, peak: float, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=peak)
    scheduler, seen = build(optimizer), []
    for _ in range(steps):
        seen.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return seen


def one_cycle(recipe, steps: int) -> list[float]:
    before = recipe.warmup_steps / steps if recipe.warmup_steps else recipe.warmup
    return torchs(
        lambda optimizer: lr_scheduler.OneCycleLR(
            optimizer,
            recipe.peak_lr,
            total_steps=steps,
            pct_start=before,
            anneal_strategy={"cosine": "cos", "linear": "linear"}[recipe.anneal],
            div_factor=recipe.div_factor,
            final_div_factor=recipe.final_div_factor,
            cycle_momentum=False,
        ),
        recipe.peak_lr,
        steps,
    )


ONE_CYCLES = [
    replace(RECIPE, **changes)
    for changes in (
        {},
        {"anneal": "linear"},
        {"anneal": "linear", "div_factor": 5.0, "final_div_factor": 4.0},
        {"div_factor": 1.0, "final_div_factor": 100.0, "warmup": 0.5},
        {"warmup_steps": 3},
        {"warmup_steps": 2, "anneal": "linear"},
        {"warmup": 0.0, "anneal": "linear", "div_factor": 10.0},
    )
]


def one_cycle_error(of) -> float:
    pairs = [(rates(recipe, steps, of), one_cycle(recipe, steps)) for recipe in ONE_CYCLES for steps in (5, 12, 50)]
    return max(abs(a / b - 1) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True))


def falling(of) -> float:
    """The largest error of the other schedules, without a warm-up, by torch's."""
    peak, errors = 0.3, []
    base = replace(RECIPE, peak_lr=peak, warmup=0.0)
    builds = {
        "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 20),
        "step": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [6, 15], gamma=0.2),
        "constant": lambda optimizer: lr_scheduler.ConstantLR(optimizer, factor=1.0),
    }
    for name, build in builds.items():
        recipe = replace(base, schedule=name, milestones=(0.3, 0.75), gamma=0.2)
        errors += [abs(a - b) for a, b in zip(rates(recipe, 20, of), torchs(build, peak, 20), strict=True)]
    for power in (0.5, 1.0, 2.0):
        recipe = replace(base, schedule="polynomial", power=power)
        theirs = torchs(lambda optimizer, p=power: lr_scheduler.PolynomialLR(optimizer, 20, power=p), peak, 20)
        errors += [abs(a - b) for a, b in zip(rates(recipe, 20, of), theirs, strict=True)]
    return max(errors) / peak


def test_every_schedule_is_torchs():
    assert one_cycle_error(learning_rate) <= 1e-9 and falling(learning_rate) <= 1e-12


def test_a_warm_up_is_a_fraction_or_steps():
    line = replace(RECIPE, schedule="polynomial", peak_lr=1.0, warmup=0.4)
    expected = [0.2, 0.4, 0.6, 0.8, *(1 - k / 6 for k in range(6))]
    assert np.allclose(rates(line, 10), expected)
    assert rates(replace(line, warmup=0.9, warmup_steps=4), 10) == rates(line, 10)
    steps = replace(RECIPE, schedule="step", peak_lr=1.0, warmup_steps=2, milestones=(0.1, 0.5), gamma=0.5)
    assert np.allclose(rates(steps, 10), [1 / 3, 2 / 3, *[0.5] * 3, *[0.25] * 5])
    assert rates(replace(steps, milestones=(), warmup=0.0, warmup_steps=0), 3) == [1.0, 1.0, 1.0]


def test_milestones_are_rounded_steps():
    recipe = replace(RECIPE, schedule="step", peak_lr=1.0, warmup=0.0, milestones=(0.3,), gamma=0.0)
    for steps in (3, 7, 10, 11, 96):
        down = [t for t, rate in enumerate(rates(recipe, steps)) if rate == 0]
        assert down == list(range(round(0.3 * steps), steps))


def test_every_rate_is_finite_and_not_above_the_peak():
    for name in ("one-cycle", "cosine", "constant", "step", "polynomial"):
        for anneal in ("cosine", "linear"):
            for warmup, warmup_steps in ((0.0, 0), (0.01, 0), (0.9, 0), (0.3, 1), (0.3, 7)):
                for steps in (1, 2, 8, 33):
                    if warmup_steps >= steps:
                        continue
                    recipe = replace(RECIPE, schedule=name, anneal=anneal, warmup=warmup, warmup_steps=warmup_steps)
                    seen = rates(recipe, steps)
                    assert all(math.isfinite(rate) and 0 <= rate <= recipe.peak_lr * (1 + 1e-12) for rate in seen)


def test_rates_of_older_recipes_are_bitwise_what_they_were():
    """SHA-256 of the rates of recipes that say none of the later fields, taken from the version before them."""
    seen = hashlib.sha256()
    for name in ("one-cycle", "cosine", "constant"):
        for warmup in (0.0, 0.1, 0.25, 0.3, 0.9):
            for peak in (0.05, 0.03, 1.7, 1e-3):
                for steps in (1, 2, 9, 144):
                    recipe = replace(RECIPE, schedule=name, warmup=warmup, peak_lr=peak)
                    seen.update(np.array(rates(recipe, steps), "<f8").tobytes())
    assert seen.hexdigest() == OLDER


OLDER = "02d294ef878cb2ac81605be62486391186de5b461efcc85d7aecc8963f8d9d96"
MUTATIONS = {
    "no start": ("start = peak / recipe.div_factor", "start = 0.0", one_cycle_error),
    "no end": ("start / recipe.final_div_factor", "0.0", one_cycle_error),
    "an end of the peak": ("start / recipe.final_div_factor", "peak / recipe.final_div_factor", one_cycle_error),
    "one kind of leg": ("leg = _LEGS[recipe.anneal]", "leg = _cosine", one_cycle_error),
    "a peak one step late": ("before - 1, steps - 1", "before, steps - 1", one_cycle_error),
    "no steps of warm-up": ("recipe.warmup_steps or recipe.warmup * steps", "recipe.warmup * steps", one_cycle_error),
    "no power": ("** recipe.power", "** 1.0", falling),
    "a milestone late": ("sum(t >= round", "sum(t > round", falling),
    "gamma once": ("recipe.gamma ** sum(", "recipe.gamma ** any(", falling),
    "a fall that ends": ("(t - warmup) / (steps - warmup)", "(t - warmup) / (steps - warmup - 1)", falling),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_wrong_term_is_seen(name, tmp_path):
    right, wrong, error = MUTATIONS[name]
    assert error(mutant(FILE, right, wrong, tmp_path).learning_rate) > 1e-4


def test_a_step_that_is_none_is_refused():
    for t in (-1, 5):
        with pytest.raises(ValueError, match="not one of 5"):
            schedule.learning_rate(RECIPE, t, 5)
