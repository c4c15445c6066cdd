"""Training, and its repetition with other example weights: the same steps in the same order."""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from engine.config import Recipe
from engine.core.optim.base import Optimizer
from engine.core.optim.sgd import sgd
from engine.core.schedule import learning_rate, plan_for
from engine.core.state import State, Trajectory
from engine.core.step import step
from engine.core.stream import Examples
from engine.errors import DivergedError
from engine.models.functional import FunctionalModel

LOSS_EVERY = 0.2  # seconds between looks at the losses: each look makes a GPU wait

# Called with (steps done, the losses and the learning rates of the steps since the last call).
OnProgress = Callable[[int, list[float], list[float]], None]


def initial_state(model: FunctionalModel) -> State:
    return State(model.theta0, torch.zeros_like(model.theta0), model.buffers0)


def optimizer_for(model: FunctionalModel, recipe: Recipe) -> Optimizer:
    return sgd(recipe, model.decay_mask(recipe.decay_norm_bias))


def train(
    model: FunctionalModel,
    data: Examples,
    recipe: Recipe,
    weights: Tensor | None = None,
    trajectory: Trajectory | None = None,
    on_progress: OnProgress | None = None,
    before_step: Callable[[int], None] | None = None,
    resume: tuple[int, State] | None = None,
) -> State:
    """The state after all steps. `weights` [N] of the examples, all 1 where not given.

    `before_step(t)` may raise to stop. `resume`, a step and the state before it, goes on from
    there. Raises `DivergedError`, with the step's number, where a loss is not finite.
    """
    steps = len(plan_for(recipe, len(data)))
    start, state = resume or (0, initial_state(model))
    state = advance(
        model,
        data,
        recipe,
        weights,
        state,
        start,
        steps,
        trajectory.put if trajectory is not None else None,
        on_progress,
        before_step,
    )
    if not all(torch.isfinite(part).all() for part in state):
        _check_finite(math.nan, steps - 1, steps, recipe)
    if trajectory is not None:
        trajectory.finish(state)
    return state


def advance(
    model: FunctionalModel,
    data: Examples,
    recipe: Recipe,
    weights: Tensor | None,
    state: State,
    start: int,
    stop: int,
    put: Callable[[int, State], None] | None = None,
    on_progress: OnProgress | None = None,
    before_step: Callable[[int], None] | None = None,
) -> State:
    """Runs the steps from `start` to before `stop`, putting the state before each."""
    plan = plan_for(recipe, len(data))
    steps, optimizer = len(plan), optimizer_for(model, recipe)
    w_N = data.labels.new_ones(len(data), dtype=data.dtype) if weights is None else weights
    pending, rates, looked = [], [], time.monotonic()
    for t in range(start, stop):
        if before_step is not None:
            before_step(t)
        if put is not None:
            put(t, state)
        index = torch.as_tensor(plan[t], device=w_N.device)
        lr = learning_rate(recipe, t, steps)
        state, loss = step(model, optimizer, state, data.batch(index), w_N[index], lr)
        pending.append(loss)
        rates.append(lr)
        if t + 1 == stop or time.monotonic() - looked >= LOSS_EVERY:
            losses = torch.stack(pending).tolist()
            for i, value in enumerate(losses, t + 1 - len(losses)):
                _check_finite(value, i, steps, recipe)
            if on_progress is not None:
                on_progress(t + 1, losses, rates)
            pending, rates, looked = [], [], time.monotonic()
    return state


def _check_finite(loss: float, t: int, steps: int, recipe: Recipe) -> None:
    if not math.isfinite(loss):
        raise DivergedError(
            f"Training diverged at step {t + 1} of {steps}: the loss is {loss}.",
            f"Lower the peak learning rate (it is {recipe.peak_lr:g}), warm up longer, or use a larger batch.",
            t,
        )
