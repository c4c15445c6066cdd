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
