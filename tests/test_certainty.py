"""How far off a prediction may be: the standard error from a run's validation; and that no loss falls below 0."""

import dataclasses
import math

import numpy as np
import pytest

from engine.analysis import certainty, lds, trust
from engine.analysis import what_if as what_ifs
from engine.datasets import registry as dataset_registry
from engine.jobs import execute as work
from engine.jobs.replay import Replay
from engine.jobs.validation import Validate
from engine.jobs.what_if import WhatIf
from engine.runs import run as runs
from engine.targets import target_function
from engine.targets.functions import losses, margins
from tests.made_up import run_of
from ui import formats

N, S = 2000, 20


def do(run: runs.Run, job=None):
    with run.lock():
        return work.execute(run, job)


def scores(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(3, N) * 1e-3


def outcomes(tau_N, sets, slope: float, noise: float, rng) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and actual changes where every image's score is wrong by an amount of its own."""
    wrong = rng.normal(0, noise, N)
    predicted = np.array([-tau_N[d].sum() for d in sets])
    return predicted, slope * predicted + np.array([wrong[d].sum() for d in sets])


# -- the formula


def test_slope_and_residual_are_those_of_least_squares_through_the_origin():
    rng = np.random.default_rng(1)
    p, a = rng.normal(size=30), rng.normal(size=30)
    error = certainty.Error.of(p, a, S, 1.0)
    (slope,), (squares,), _, _ = np.linalg.lstsq(p[:, None], a, rcond=None)
    assert error is not None and error.slope == pytest.approx(slope)
    assert error.residual == pytest.approx(math.sqrt(squares / 29))
    assert error.slope_error == pytest.approx(
        error.residual * math.sqrt(np.linalg.inv(p[:, None].T @ p[:, None])[0, 0])
    )


def test_too_few_subsets_or_nothing_predicted_say_nothing():
    p = np.ones(trust.DECISIVE - 1)
    assert certainty.Error.of(p, p, S, 1.0) is None
    assert certainty.Error.of(np.zeros(40), np.ones(40), S, 1.0) is None
    assert certainty.of_set([], np.ones(3)) is None


def test_the_error_grows_with_the_number_and_with_the_scores_left_out():
    error = certainty.Error(slope=1.0, residual=0.5, slope_error=0.0, left_out=100, subsets=40, square=1.0)
    assert error.standard(0.0, 100, 100.0) == pytest.approx(0.5), "a set like those that were validated"
    assert error.standard(0.0, 25, 1.0) == pytest.approx(0.25), "a quarter of the images: half the error"
    assert error.standard(0.0, 25, 400.0) == pytest.approx(2.0), "few images of large scores: beyond what was tried"
    assert error.standard(0.0, 400, 4.0) == pytest.approx(2.0), "four times as many: the second order"
    leaning = dataclasses.replace(error, slope=0.8)
    assert leaning.standard(10.0, 100, 100.0) == pytest.approx(math.hypot(0.5, 2.0)), "a slope of 0.8 takes a fifth"


def test_the_validation_of_the_likest_sets_is_taken():
    small = certainty.Error(1.0, 0.1, 0.0, 60, 40, 1.0)
    large = certainty.Error(1.0, 0.9, 0.0, 600, 40, 1.0)
    assert certainty.of_set([small, large], np.ones(50) * 1.0) == small.standard(-50.0, 50, 50.0)
    assert certainty.of_set([small, large], np.ones(500) * 1.0) == large.standard(-500.0, 500, 500.0)


@pytest.mark.parametrize("slope, noise", [(1.0, 1e-3), (1.0, 1e-4), (0.7, 3e-4), (1.3, 3e-4)])
def test_twice_the_error_holds_95_of_100_sets_that_were_not_validated(slope, noise):
    """Over many runs, each with its own validation of 32 sets, and sets of another size, or of the largest scores."""
    held = {"like": [], "fewer": []}
    for seed in range(60):
        tau_N, rng = scores(seed), np.random.default_rng([seed, 1])
        sets = [lds.subset(N, S / N, seed, m) for m in range(48)]
        few = [lds.subset(N, 5 / N, seed, m) for m in range(16)]
        p, a = outcomes(tau_N, [*sets, *few], slope, noise, rng)
        error = certainty.Error.of(p[:32], a[:32], S, float((tau_N**2).mean()))
        for m, (left_out, name) in enumerate([*((d, "like") for d in sets[32:]), *((d, "fewer") for d in few)], 32):
            standard = certainty.of_set([error], tau_N[left_out])
            held[name].append(abs(a[m] - p[m]) <= 2 * standard)
    shares = {name: float(np.mean(of)) for name, of in held.items()}
    assert 0.92 <= shares["like"] <= 0.995 and 0.92 <= shares["fewer"] <= 1.0, shares


# -- sets that were chosen


def newton(x, y, weights_N, theta):
    """The minimum of Σ w log(1 + exp(−y xθ)) + ‖θ‖² / 2, and the Hessian there."""
    for _ in range(30):
        wrong = 1 / (1 + np.exp((x @ theta) * y))
        hessian = (x * (weights_N * wrong * (1 - wrong))[:, None]).T @ x + np.eye(len(theta))
        step = np.linalg.solve(hessian, theta - (weights_N * wrong * y) @ x)
        theta = theta - step
        if np.abs(step).max() < 1e-12:
            break
    return theta, hessian


def regression(seed: int, n: int = 600, k: int = 10):
    """Logistic regression on six clusters, to its minimum: scores [K, N] of k test points' losses by the implicit
    function theorem; their losses [K]; and a function that fits again without a set and says their changes [K]."""
    rng = np.random.default_rng(seed)
    of, centres = rng.integers(6, size=n + k), rng.normal(size=(6, 30))
    x = centres[of] + 0.6 * rng.normal(size=(n + k, 30))
    y = np.where(rng.normal(size=6)[of] + 0.8 * rng.normal(size=n + k) > 0, 1.0, -1.0)
    (x, x_test), (y, y_test) = np.split(x, [n]), np.split(y, [n])
    theta, hessian = newton(x, y, np.ones(n), np.zeros(30))

    def losses(theta):
        return np.logaddexp(0, -(x_test @ theta) * y_test)

    def gradients(x, y):
        return -(y / (1 + np.exp((x @ theta) * y)))[:, None] * x

    def changes(left_out):
        weights_N = np.ones(n)
        weights_N[left_out] = 0
        return losses(newton(x, y, weights_N, theta)[0]) - losses(theta)

    return -gradients(x_test, y_test) @ np.linalg.solve(hessian, gradients(x, y).T), losses(theta), changes


def held(sides: tuple[str, ...], times: int) -> float:
    """Of sets of the most helpful or harmful points, `times` as many as the validated random 2 %, the share whose
    actual change is within two standard errors."""
    found = []
    for seed in range(3):
        tau_KN, losses_K, changes = regression(seed)
        n = tau_KN.shape[1]
        sets = [lds.subset(n, 0.02, seed, m) for m in range(24)]
        actual_MK = np.array([changes(left_out) for left_out in sets])
        for k, (tau_N, loss) in enumerate(zip(tau_KN, losses_K, strict=True)):
            predicted = [-tau_N[left_out].sum() for left_out in sets]
            error = certainty.Error.of(predicted, actual_MK[:, k], 12, float((tau_N**2).mean()), float(loss))
            order = np.argsort(tau_N)
            for side in sides:
                left_out = {"helpful": order, "harmful": order[::-1]}[side][: 12 * times]
                miss = abs(changes(left_out)[k] + tau_N[left_out].sum())
                found.append(miss <= 2 * certainty.of_set([error], tau_N[left_out]))
    return float(np.mean(found))


@pytest.mark.slow
def test_twice_the_error_holds_sets_that_were_chosen_for_their_effect(monkeypatch):
    """Of a model whose retrainings are exact. What random sets alone say holds next to none of them."""
    assert held(("helpful", "harmful"), 1) >= 0.92 and held(("helpful", "harmful"), 4) >= 0.85
    monkeypatch.setattr(certainty.Error, "second_order", lambda self, change, count: 0.0)
    assert held(("helpful",), 1) < 0.1 and held(("helpful",), 4) < 0.1


def test_the_second_order_is_none_where_all_was_tried_and_that_of_the_loss_s_curve():
    tried = certainty.Error(1.0, 0.1, 0.0, 60, 40, 1.0, relative=0.2, reach=3.0)
    assert tried.second_order(2.9, 60) == 0 and tried.second_order(0.0, 60) == 0
    assert tried.second_order(-6.0, 60) == pytest.approx(6 * 2.5 * 0.2 / 2), "κ ν, half of it, for half was tried"
    assert tried.second_order(-6.0, 240) == pytest.approx(2 * 6 * 2.5 * 0.2 / 2), "four times as many images"
    logits, label = np.array([[0.3, 1.4, -0.2]]), np.array([1])
    loss, slope = float(losses(logits, label)[0]), target_function("loss").slope
    curved = dataclasses.replace(tried, loss=loss, reach=math.inf)
    rise = 0.5 / slope(float(margins(logits, label)[0]))  # of the margin, which is how far its logit moves
    there = float(losses(logits + rise * np.array([[0, 1, 0]]), label)[0]) - loss
    assert curved.moved(0.5) == pytest.approx(there) and curved.second_order(0.5, 60) == pytest.approx(
        (there - 0.5) / 2
    )
    assert curved.moved(-1e9) == pytest.approx(-loss), "a loss ends at 0"
    lost = dataclasses.replace(curved, loss=1e-9)
    assert lost.moved(0.5) == 0.5, "of so small a loss the margin is not known"


# -- of a run


def test_a_run_without_a_validation_says_that_nothing_is_known(root):
    run = run_of(root, "one", {("test:0",): ("loss", 1e-3 * np.random.default_rng(0).normal(size=(1, 6000)))})
    dataset = dataset_registry.load(run.manifest().config.dataset)
    (what,) = what_ifs.predict(run.manifest(), dataset, np.arange(5))
    assert what.standard_error is None
    assert "not known" in formats.error_in_words(dataclasses.asdict(what))
    assert "±" not in formats.what_if_change(dataclasses.asdict(what), dataset.classes)


def test_no_predicted_loss_is_below_zero(root):
    tau = np.zeros((2, 6000), np.float32)
    tau[:, 0] = 100.0
    run = run_of(root, "one", {("test:0",): ("loss", tau[:1]), ("test:1",): ("margin", -tau[1:])})
    dataset = dataset_registry.load(run.manifest().config.dataset)
    loss, margin = what_ifs.predict(run.manifest(), dataset, np.array([0]))
    assert loss.predicted["loss"] == 0.0 and loss.change == -100.0
    assert margin.predicted["loss"] == 0.0 and margin.predicted["margin"] == pytest.approx(
        margin.before["margin"] + 100
    )
    told = formats.what_if_change(dataclasses.asdict(loss), dataset.classes)
    assert "−100.0 nats" in told and "cannot fall below 0" in told
    assert "cannot fall" not in formats.what_if_change(dataclasses.asdict(margin), dataset.classes)
    older = {**dataclasses.asdict(loss), "predicted": {**loss.predicted, "loss": -99.0}}  # as reports of before have it
    assert formats.what_if_table(older, dataset.classes)[0]["Predicted"] == "0.0000"


@pytest.mark.slow
def test_on_a_real_run_twice_the_error_holds_what_happens(quick):
    """Of a validation's 48 retrainings, half say the error, and the other half what happens; and the other way round.
    The what-if's report has it, once there is a validation, and what stands on a page is never older."""
    run = quick
    do(run, Replay(tuple(f"test:{i}" for i in range(2, 10)), "loss", "disk"))
    (name,) = do(run, WhatIf.of(range(4))).reports
    assert [t["standard_error"] for t in trust.what_ifs(run.manifest())[0]["targets"]] == [None] * 10
    do(run, Validate(48, (0.05,)))
    record = run.manifest()
    (report,) = trust.reports(record)
    held = []
    for target in report["targets"]:
        tau_N = record.score_sets.row(record.score_sets.target(target["key"])).astype(float)
        p, a = np.array(target["predicted"]), np.array(target["actual"])
        for fit, rest in ((np.arange(24), np.arange(24, 48)), (np.arange(24, 48), np.arange(24))):
            error = certainty.Error.of(p[fit], a[fit], report["left_out"], float((tau_N**2).mean()))
            for m in rest:
                standard = certainty.of_set([error], tau_N[lds.subset(120, 0.05, 0, int(m))])
                held.append(abs(a[m] - p[m]) <= 2 * standard)
    assert 0.88 <= np.mean(held) <= 1.0, np.mean(held)
    assert np.mean(held) == pytest.approx(0.95, abs=0.06)
    (what_if,) = [each for each in trust.what_ifs(record) if each["name"] == name]
    now = certainty.with_errors(what_if, record)
    assert all(t["standard_error"] > 0 for t in now)
    (later,) = do(run, WhatIf.of(range(4))).reports
    (kept,) = [each for each in trust.what_ifs(run.manifest()) if each["name"] == later]
    assert [t["standard_error"] for t in kept["targets"]] == [t["standard_error"] for t in now]
