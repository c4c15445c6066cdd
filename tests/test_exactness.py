"""The scores are the derivative: float64 on the CPU, against finite differences over every weight.

The table is tools/exactness.py; mutations show that it can fail.
"""

import dataclasses
import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import engine
from engine.augmentation import KINDS, parse
from engine.config import ANNEALS, OPTIMIZERS, SCHEDULES, Recipe
from engine.core import step
from engine.core.optim.sgd import SGD
from engine.core.replay import replay
from engine.core.state import Adjoint
from engine.core.targets import adjoints
from engine.core.training import initial_state, optimizer_for
from engine.library import checks
from engine.models.functional import FunctionalModel
from engine.targets.functions import FAMILIES, FUNCTIONS, examples
from tools.exactness import (
    ALL,
    CASES,
    FACTORS,
    SETS,
    TOLERANCE,
    H,
    N,
    design,
    error_of_case,
    problem,
    recipe,
    relative_error,
    scores_and_differences,
)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_scores_equal_finite_differences(case):
    scores, differences = scores_and_differences(*CASES[case])
    assert scores.dtype == np.float32 and scores.shape == (len(SETS), N)
    assert np.abs(scores).max() > 1e-3
    assert relative_error(scores, differences) <= TOLERANCE


def test_a_weight_counts_where_it_is_not_one():
    """Scores at other weights are derivatives there, so retrained models can be explained too."""
    model, train, test = problem(True)
    weights = torch.linspace(0.2, 1.8, N, dtype=torch.float64)
    trained = engine.train(model, *train, recipe(**ALL), weights=weights, device="cpu")
    scores = engine.attribute(trained, *test)[:, 7]
    ends = []
    for sign in (1, -1):
        moved = weights.clone()
        moved[7] += sign * H
        ends.append(engine.evaluate(trained, *test, state=engine.retrain(trained, moved)))
    assert relative_error(scores, (ends[0] - ends[1]) / (2 * H)) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("case", design(together=1), ids=lambda case: case["layer"])
def test_every_option_is_exact_beside_others(case):
    """Each at least once; `python -m tools.exactness` has every pair of them."""
    assert error_of_case(case) <= TOLERANCE


def test_the_table_has_every_option_that_there_is_and_each_pair_of_them():
    def values(factor: str, name: str) -> set:
        return {level.get(name, getattr(Recipe(), name)) for level in FACTORS[factor].values()}

    assert values("optimizer", "optimizer") == set(OPTIMIZERS)
    assert values("schedule", "schedule") == set(SCHEDULES) and values("schedule", "anneal") == set(ANNEALS)
    assert {each.name for text in FACTORS["augmentation"] for each in parse(text)} == set(KINDS)
    functions = {name.partition(":")[0] for name in FACTORS["target function"]}
    assert functions == {*FUNCTIONS, *FAMILIES} and set(examples()) == {
        *FUNCTIONS,
        *(family.example for family in FAMILIES.values()),
    }
    pairs = {frozenset(two) for case in design() for two in itertools.combinations(case.items(), 2)}
    sizes = [len(levels) for levels in FACTORS.values()]
    assert len(pairs) == sum(a * b for a, b in itertools.combinations(sizes, 2)) and len(design()) < 200
    assert {level for case in design(together=1) for level in case.items()} == {
        (name, level) for name, levels in FACTORS.items() for level in levels
    }


def cut_momentum(monkeypatch):
    exact = SGD.pullback

    def cut(self, *args):
        theta, opt, v = exact(self, *args)
        return theta, tuple(map(torch.zeros_like, opt)), v

    monkeypatch.setattr(SGD, "pullback", cut)


def cut_running_statistics(monkeypatch):
    exact = step.step_back

    def cut(*args, **kwargs):
        adjoint, scores = exact(*args, **kwargs)
        return adjoint._replace(buffers=torch.zeros_like(adjoint.buffers)), scores

    monkeypatch.setattr("engine.core.replay.step_back", cut)


def cut_decay(monkeypatch):
    exact = SGD.pullback

    def cut(self, *args):
        return exact(dataclasses.replace(self, decay_P=torch.zeros_like(self.decay_P)), *args)

    monkeypatch.setattr(SGD, "pullback", cut)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mutation, case",
    [
        (cut_momentum, "momentum 0.9"),
        (cut_momentum, "all together"),
        (cut_running_statistics, "BatchNorm, eval-mode target"),
        (cut_running_statistics, "all together"),
        (cut_decay, "decay 5e-2"),
    ],
)
def test_a_cut_adjoint_is_found(mutation, case, monkeypatch):
    mutation(monkeypatch)
    # The guard of `engine.train` would stop a mutated optimizer first; here it is the table's turn.
    monkeypatch.setattr("engine.api.check_model", lambda *a: None)
    assert relative_error(*scores_and_differences(*CASES[case])) > 100 * TOLERANCE


@pytest.mark.slow
def test_many_targets_in_one_pass_equal_one_at_a_time():
    model, train, test = problem(True)
    trained = engine.train(model, *train, recipe(**ALL), device="cpu")
    data = checks.targets_data(trained, *test)
    end = adjoints(trained.model, trained.state, data, [[0], [1], [2], [3], [0, 1, 2, 3]], "loss")

    def scores(adjoint, **kwargs):
        return replay(trained.model, trained.stream, trained.trajectory, adjoint, **kwargs)

    together = scores(end, targets_per_pass=5)
    chunked = scores(end, targets_per_pass=2)
    each = (Adjoint(end.theta[[k]], tuple(part[[k]] for part in end.opt), end.buffers[[k]]) for k in range(5))
    alone = torch.cat([scores(adjoint) for adjoint in each])
    assert together.dtype == torch.float64 and together.abs().max() > 1e-3
    for other in (alone, chunked):
        assert ((together - other).norm() / alone.norm()).item() <= 1e-10
    # The mean of four targets is the target of the mean: φ is linear in them.
    assert torch.allclose(together[4], together[:4].mean(0), rtol=1e-10, atol=1e-14)


def test_replay_agrees_with_reverse_over_reverse():
    """The whole of training as one autograd graph, unrolled: a second method, for all examples."""
    model, train, test = problem(True)
    rec = recipe(**ALL)
    trained = engine.train(model, *train, rec, device="cpu")
    functional: FunctionalModel = trained.model
    weights = torch.ones(N, dtype=torch.float64, requires_grad=True)
    stream, optimizer = trained.stream.weighted(weights), optimizer_for(functional, rec)
    theta, (momentum,), buffers = initial_state(functional, optimizer)
    theta, momentum, buffers = (part.clone().requires_grad_() for part in (theta, momentum, buffers))
    for t in range(stream.steps):
        inputs = stream.at(t)
        logits, buffers = functional(theta, buffers, inputs.batch[0], True)
        losses = nn.functional.cross_entropy(logits, inputs.batch[1], reduction="none")
        (g,) = torch.autograd.grad((inputs.w_B * losses).sum() / rec.batch_size, theta, create_graph=True)
        theta, (momentum,) = optimizer.update(theta, (momentum,), g, inputs)
    logits, _ = functional(theta, buffers, test[0], False)
    (expected,) = torch.autograd.grad(nn.functional.cross_entropy(logits[:1], test[1][:1]), weights)
    assert relative_error(engine.attribute(trained, *test)[0], expected.numpy()) <= TOLERANCE


@pytest.mark.slow
def test_two_threads_may_replay_at_once():
    """As a page's measurement beside a running job: torch's forward mode is not made for it."""
    model, train, test = problem(True)
    each = [engine.train(model, *train, recipe(**ALL), device="cpu") for _ in range(3)]
    expected = engine.attribute(each[0], *test)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda trained: engine.attribute(trained, *test), each))
    assert all(np.array_equal(scores, expected) for scores in found)
