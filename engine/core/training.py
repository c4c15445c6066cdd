"""Training, and its repetition with other example weights: the same steps in the same order."""

import math
import time
from collections.abc import Callable

import torch

from engine.config import OPTIMIZERS, Recipe
from engine.core.optim.base import Optimizer
from engine.core.optim.clip import Clipped
from engine.core.optim.groups import ScaledRates, decay_and_factors
from engine.core.state import Put, Recorder, State
from engine.core.step import Passes, step
from engine.core.stream import Stream
from engine.errors import DivergedError
from engine.models.functional import FunctionalModel

LOSS_EVERY = 0.2  # seconds between looks at the losses: each look makes a GPU wait

# Called with (steps done, the losses and the learning rates of the steps since the last call).
OnProgress = Callable[[int, list[float], list[float]], None]


def optimizer_for(model: FunctionalModel, recipe: Recipe) -> Optimizer:
    """The optimizer that a recipe names, with its parameter groups and its clipping."""
    decay_P, factor_P = decay_and_factors(model, recipe)
    optimizer: Optimizer = OPTIMIZERS.get(recipe.optimizer)(recipe, decay_P)
    if recipe.groups:
        optimizer = ScaledRates(optimizer, factor_P)
    return Clipped(optimizer, recipe.clip_norm) if recipe.clip_norm else optimizer


def initial_state(model: FunctionalModel, optimizer: Optimizer) -> State:
    return State(model.theta0, optimizer.init(model.theta0), model.buffers0)


def train(
    model: FunctionalModel,
    stream: Stream,
    trajectory: Recorder | None = None,
    on_progress: OnProgress | None = None,
    before_step: Callable[[int], None] | None = None,
    resume: tuple[int, State] | None = None,
    passes: Passes | None = None,
) -> State:
    """The state after all steps of the stream.

    `before_step(t)` may raise to stop. `resume`, a step and the state before it, goes on from
    there. `passes` through the model; the model's own where None. Raises `DivergedError`, with the step's number,
    where a loss is not finite.
    """
    start, state = resume or (0, initial_state(model, optimizer_for(model, stream.recipe)))
    put = trajectory.put if trajectory is not None else None
    state = advance(model, stream, state, start, stream.steps, put, on_progress, before_step, passes)
    if not all(torch.isfinite(part).all() for part in state.parts):
        _check_finite(math.nan, stream.steps - 1, stream)
    if trajectory is not None:
        trajectory.finish(state)
    return state


def advance(
    model: FunctionalModel,
    stream: Stream,
    state: State,
    start: int,
    stop: int,
    put: Put | None = None,
    on_progress: OnProgress | None = None,
    before_step: Callable[[int], None] | None = None,
    passes: Passes | None = None,
) -> State:
    """Runs the steps from `start` to before `stop`, putting the state before each."""
    optimizer = optimizer_for(model, stream.recipe)
    pending, rates, looked = [], [], time.monotonic()
    for t in range(start, stop):
        if before_step is not None:
            before_step(t)
        if put is not None:
            put(t, state)
        inputs = stream.at(t)
        state, loss = step(passes or model, optimizer, state, inputs)
        pending.append(loss)
        rates.append(inputs.lr)
        if t + 1 == stop or time.monotonic() - looked >= LOSS_EVERY:
            losses = torch.stack(pending).tolist()
            for i, value in enumerate(losses, t + 1 - len(losses)):
                _check_finite(value, i, stream)
            if on_progress is not None:
                on_progress(t + 1, losses, rates)
            pending, rates, looked = [], [], time.monotonic()
    return state


def _check_finite(loss: float, t: int, stream: Stream) -> None:
    if not math.isfinite(loss):
        raise DivergedError(
            f"Training diverged at step {t + 1} of {stream.steps}: the loss is {loss}.",
            f"Lower the peak learning rate (it is {stream.recipe.peak_lr:g}), warm up longer, or use a larger batch.",
            t,
        )
