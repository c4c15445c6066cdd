"""Agreement with retraining: targets that do not vary, fractions that are no numbers, and which report decides."""

import dataclasses
import math
import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from engine.analysis import lds, trust
from engine.errors import ConfigError


def changes(k: int = 3, m: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    predicted = rng.normal(size=(k, m))
    return predicted, predicted + rng.normal(size=(k, m))


def test_figures_of_targets_that_all_vary_are_bitwise_what_f4cbe6d_gave():
    each, mean = lds.agreement(*changes())
    assert dataclasses.astuple(each[0]) == (
        0.5180112570356473,
        0.21415613393256938,
        0.7338339984483065,
        0.8000513462401884,
        0.2616158972565791,
    )
    assert dataclasses.astuple(mean) == (
        0.5714196372732958,
        0.2756916074290563,
        0.7862797745632638,
        0.872001996569384,
        0.3488513006403347,
        3,
    )


@pytest.mark.parametrize("still", ["predicted", "actual"])
def test_a_target_that_does_not_vary_does_not_count_and_hides_no_other(still):
    predicted, actual = changes()
    (predicted if still == "predicted" else actual)[1] = 0.25
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        each, mean = lds.agreement(predicted, actual)
    assert all(math.isnan(value) for value in dataclasses.astuple(each[1]))
    _, of_others = lds.agreement(predicted[[0, 2]], actual[[0, 2]])
    assert mean.targets == 2 and mean.lds == of_others.lds and mean.slope == of_others.slope and mean.r2 == of_others.r2
    assert mean.low < mean.lds < mean.high  # the resamples of the others are drawn beside the still one's


def test_where_no_target_varies_there_is_no_mean():
    predicted, actual = changes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        each, mean = lds.agreement(np.zeros_like(predicted), actual)
    assert mean.targets == 0 and all(math.isnan(value) for value in dataclasses.astuple(mean)[:5]) and len(each) == 3


def test_outcomes_that_vary_in_one_subset_alone_have_figures_without_a_warning():
    predicted, actual = changes(1, 8)
    actual[:] = 0
    actual[0, 3] = 1.0  # a third of the resamples miss it, and have no correlation
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, mean = lds.agreement(predicted, actual)
    assert mean.targets == 1 and all(map(math.isfinite, dataclasses.astuple(mean)))


def test_pieces_do_not_change_the_figures(monkeypatch):
    whole = lds.agreement(*changes())[1]
    monkeypatch.setattr(lds, "PIECE", 1000)
    assert lds.agreement(*changes())[1] == whole


@pytest.mark.parametrize(
    "drop",
    [math.nan, math.inf, -math.inf, 0, 1, -0.1, 1.5, 1e-9, 1 - 1e-9, 1e308, True, None, "0.01", "nan", [0.01], 1j]
    + [np.float64("nan"), np.float32("inf"), 10**400, Decimal("NaN"), np.array([0.1, 0.2])],
    ids=lambda drop: type(drop).__name__,
)
def test_fractions_that_make_no_sense_are_refused_before_they_are_rounded(drop):
    with pytest.raises(ConfigError, match="Leaving out .* of 6,000 training images is not possible") as caught:
        lds.size_of_drop(6000, drop)
    assert "such as 0.01" in caught.value.remedy and "drop" in caught.value.problems
    with pytest.raises(ConfigError):
        trust.check_plan(50, (0.01, drop), 0, 6000)


def test_fractions_of_any_number_type_are_taken():
    for drop in (0.01, np.float64(0.01), np.float32(0.01), Fraction(1, 100)):
        assert lds.size_of_drop(6000, drop) == 60


# -- the verdict


def report(
    seed: int, subsets: int, value: float, half: float | None, drop: float = 0.01, function: str = "loss"
) -> dict:
    low, high = (None, None) if half is None else (value - half, value + half)
    figures = {"lds_mean": value, "lds_mean_low": low, "lds_mean_high": high}
    figures["targets"] = [{"key": f"test:0.{function}", "lds": value}]
    return {"seed": seed, "subsets": subsets, "drop": drop, "function": function, **figures}


@pytest.mark.parametrize(
    "reports, decides",
    [
        ([report(0, 20, 0.50, 0.30), report(1, 500, 0.95, 0.02)], 0.95),
        ([report(0, 500, 0.95, 0.02), report(1, 20, 0.50, 0.30)], 0.95),
        ([report(0, 30, 0.5, 0.3), report(0, 30, 0.91, 0.1, function="margin")], 0.91),
        ([report(0, 30, 0.5, 0.3), report(0, 500, 0.99, 0.01, drop=0.05)], 0.5),
        ([report(0, 30, 0.5, None), report(1, 20, 0.8, 0.4)], 0.8),
        ([report(0, 30, 0.5, None)], 0.5),
        ([report(0, 19, 0.99, 0.001), report(1, 20, 0.5, 0.3)], 0.5),
    ],
)
def test_of_the_smallest_fraction_the_narrowest_interval_decides(reports, decides):
    verdict = trust.judge(trust.Evidence(targets=frozenset({"test:0.loss"}), growth=1.1, reports=tuple(reports)))
    assert verdict.lds == decides and f"LDS {decides:.2f}" in verdict.reason
