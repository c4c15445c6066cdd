"""Weights that count from a step on: scores, replay and retraining reach back to that step, and no further."""

import dataclasses

import numpy as np
import pytest
import torch

import engine
from engine.config import RunConfig, check, first_step, problems, window_phrase, window_start
from engine.core import retraining
from engine.core.step import step
from engine.core.training import initial_state, optimizer_for
from engine.errors import ConfigError
from tests.helpers import RECIPE, images, net

N = 26
STEPS = 9  # 3 epochs of 3 steps
START = 4
ADAM = dataclasses.replace(RECIPE, optimizer="adam", peak_lr=0.01, eps_root=1e-4)
ONE_EPOCH = dataclasses.replace(RECIPE, epochs=1, peak_lr=0.05)


def train(recipe=RECIPE, **options):
    return engine.train(net(), *images(N), recipe, check=False, progress=False, **options)


def asked() -> tuple[torch.Tensor, torch.Tensor]:
    inputs, labels = images(N)
    return inputs[:3] + 0.1, labels[:3]


def by_hand(trained, weights: torch.Tensor, start: int):
    """The state after a training whose weights [N] change before step `start`, one step after the other."""
    stream = trained.stream
    optimizer = optimizer_for(trained.model, stream.recipe)
    state = initial_state(trained.model, optimizer)
    for t in range(stream.steps):
        inputs = (stream if t < start else stream.weighted(weights)).at(t)
        state, _ = step(trained.model, optimizer, state, inputs)
    return state


# -- the mathematics


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [RECIPE, ADAM], ids=["momentum", "adam"])
def test_scores_are_the_derivatives_by_the_weights_from_the_step_on(recipe):
    """Against central differences of trainings whose weights change before that step (not `engine.retrain`); the model
    has BatchNorm, the optimizer a memory, and both carry what came before the step across it."""
    trained = train(recipe)
    scores = engine.attribute(trained, *asked(), window=START, progress=False)
    h, columns, some = 1e-5, [], range(0, N, 3)
    for i in some:
        ends = []
        for sign in (1, -1):
            weights = torch.ones(N, dtype=torch.float64)
            weights[i] += sign * h
            ends.append(engine.evaluate(trained, *asked(), state=by_hand(trained, weights, START), progress=False))
        columns.append((ends[0] - ends[1]) / (2 * h))
    expected = np.stack(columns, axis=-1)
    assert np.abs(expected).max() > 1e-4
    assert np.abs(scores[:, some] - expected).max() < 1e-6 * np.abs(expected).max()
    whole = engine.attribute(trained, *asked(), progress=False)
    assert np.abs(scores - whole).max() > 0.1 * np.abs(whole).max()  # and it is another question


def test_images_seen_before_the_window_alone_have_scores_of_exactly_0():
    trained = train(ONE_EPOCH)  # each image is seen at most once
    scores = engine.attribute(trained, *asked(), window=1, progress=False)
    seen = np.unique(np.concatenate([trained.stream.plan[t] for t in (1, 2)]))
    others = np.setdiff1d(np.arange(N), seen)
    assert len(others) == N - 16
    assert (scores[:, others] == 0).all() and (scores[:, seen] != 0).all()


@pytest.mark.parametrize("recipe", [RECIPE, ADAM], ids=["momentum", "adam"])
def test_retraining_from_the_step_is_the_whole_training_whose_weights_change_there(recipe):
    trained = train(recipe)
    weights = torch.ones(N, dtype=torch.float64)
    weights[[0, 5, 17]] = 0
    again = engine.retrain(trained, weights, window=START, progress=False)
    expected = by_hand(trained, weights, START)
    assert all(map(torch.equal, again.parts, expected.parts))
    assert not torch.equal(again.theta, engine.retrain(trained, weights, progress=False).theta)
    before = by_hand(trained, torch.ones(N, dtype=torch.float64), 0)
    assert torch.equal(before.theta, trained.state.theta)  # and the hand does what training does


def test_retrainings_side_by_side_part_from_the_run_at_the_step():
    trained = train()
    weights = torch.ones(2, N, dtype=torch.float64)
    weights[0, [0, 5]], weights[1, [7]] = 0, 0
    stream, optimizer = trained.stream, optimizer_for(trained.model, RECIPE)
    state = initial_state(trained.model, optimizer)
    for t in range(START):
        state, _ = step(trained.model, optimizer, state, stream.at(t))
    together = retraining.retrain(trained.model, stream, weights, begin=(START, state))
    for row, each in zip(weights, together, strict=True):
        assert torch.allclose(each.theta, by_hand(trained, row, START).theta, rtol=0, atol=1e-12)


def test_a_replay_asks_for_no_state_before_its_window():
    trained = train()
    asked_for, get = [], trained.trajectory.get
    trained.trajectory.get = lambda t: asked_for.append(t) or get(t)
    told = []
    engine.attribute(trained, *asked(), window=START, progress=lambda what, done, of: told.append((done, of)))
    assert asked_for == list(range(STEPS - 1, START - 1, -1))
    assert told[-1] == (STEPS - START, STEPS - START)


@pytest.mark.slow
def test_a_fraction_is_the_step_that_it_names_and_0_is_the_whole_training_bit_for_bit():
    trained = train()
    by_step = engine.attribute(trained, *asked(), window=3, progress=False)
    assert np.array_equal(by_step, engine.attribute(trained, *asked(), window=1 / 3, progress=False))
    whole = engine.attribute(trained, *asked(), progress=False)
    assert np.array_equal(whole, engine.attribute(trained, *asked(), window=0.0, progress=False))
    assert not np.array_equal(whole, by_step)


# -- what a window may be, and its words


@pytest.mark.parametrize(
    ("window", "steps", "start"), [(0, 9, 0), (0.5, 144, 72), (0.3, 480, 144), (1, 9, 1), (64.0, 144, 64)]
)
def test_first_step(window, steps, start):
    assert first_step(window, steps) == start


@pytest.mark.parametrize(
    ("start", "steps", "phrase"),
    [
        (0, 144, ""),
        (72, 144, "effect of the last 50 % of training"),
        (48, 144, "effect of the last 66.7 % of training"),
        (1, 10_000, "effect of the last 99.99 % of training"),  # not the whole
        (9_999, 10_000, "effect of the last 0.01 % of training"),
    ],
)
def test_the_phrase(start, steps, phrase):
    assert window_phrase(start, steps) == phrase


@pytest.mark.parametrize(
    ("window", "said"),
    [
        (-0.1, "must be from 0 to 1e+07, not -0.1"),
        (float("nan"), "must be from 0 to 1e+07, not nan"),
        (float("inf"), "not inf"),
        (1.5, "must be a fraction below 1, or from 1 on a whole number of steps, not 1.5"),
        (9, "is 9, and leaves none of the training's 9 steps"),
        (0.96, "is 0.96, and leaves none of the training's 9 steps"),
        ("half", "must be a number, not 'half'"),
        (True, "must be a number, not True"),
        (None, "must be a number, not None"),
    ],
)
def test_windows_that_cannot_be_are_refused(window, said):
    trained = train()
    for act in (
        lambda: engine.attribute(trained, *asked(), window=window, progress=False),
        lambda: engine.retrain(trained, torch.ones(N, dtype=torch.float64), window=window, progress=False),
        lambda: check(RunConfig(recipe=RECIPE, window=window), n_train=N),
    ):
        with pytest.raises(ConfigError) as error:
            act()
        assert said in str(error.value) and "window" in error.value.problems


def test_a_segment_larger_than_the_window_is_refused():
    config = RunConfig(recipe=RECIPE, window=START, segment=6)
    assert problems(config, n_train=N) == {"segment": "is 6, and the window has 5 steps"}
    assert problems(config.replace(segment=5), n_train=N) == {} == problems(config.replace(window=0.0), n_train=N)


def test_a_window_decides_nothing_of_the_training():
    config = RunConfig(recipe=RECIPE, window=0.5)
    assert config.training_digest("data") == config.replace(window=0.0).training_digest("data")
    assert window_start(config, 144) == 72
