"""How far off a predicted change may be, from the run's own validation. No torch.

For one target a validation knows, of each of M random sets D_m of S training images, the predicted change
p_m = −Σ_{i∈D_m} τ_i and the actual one a_m. A change that is predicted for another set D is off by what

    a(D) = β p(D) + ε(D)        E ε = 0        Var ε(D) = σ² r(D)

leaves: β is the slope through the origin (nothing left out changes nothing), Σ p a / Σ p², with the variance
σ² / Σ p², and σ² = Σ (a − β p)² / (M − 1) (Draper and Smith, Applied Regression Analysis, 3rd ed., section 1.4 and, for
unequal variances, 9.2). What is shown is p and not β p, so that its mean squared error has the slope's error, too:

    se(D)² = σ² r(D) + p(D)² ((β − 1)² + σ² / Σ p_m²)

r(D) says how much more than a validated set is left out. If each score were wrong by an amount of its own, whatever
its size, the variance would grow with the number of images, r = |D| / S; if by a share of its own size, with the
scores' squares, r = Σ_D τ² / (S · mean of τ²). Both hold in part, so that the larger counts: the most harmful images
are few, with large scores. Beyond what was validated (r > 1) the second order, which the scores do not have, grows with
the square of the weights moved: there the variance grows with r². The validation whose r is nearest to 1 is taken.

That holds for sets like those that were tried. A set that was chosen for its effect is foretold to change the target
many times as much as any of them did, and there the second order leads one way: images that are alike do each other's
work, and without some the others weigh more. With ν the relative error of what was validated, √(Σ (a − p)² / Σ p²), and
P the largest |p_m|, a prediction beyond P may be off by a share of itself of standard error

    ρ(D) = κ ν max(0, 1 − P / |p|) √max(1, |D| / S)

(The second order's share grows with the number of images, and more slowly where what is alike runs out.)

And a loss is a curved function of the margin, which the first order takes for straight: a prediction of p moves the
margin m by −p / (1 − e^−φ), and the loss φ of one image by f(p) = log(1 + e^−(m + Δm)) − φ, which is more than p. For
±2 se to reach both ends of what that leaves, the variance gains the square of

    max |f(p (1 ± 2ρ)) − p| / 2          f(p) = p of any other target; 1 − 2ρ is 0 at the least

±2 se is meant to hold the actual change in 95 of 100 cases; tests/test_certainty.py measures it, and
docs/trust.md, where κ is from.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.analysis import lds, trust
from engine.runs.manifest import Manifest

if TYPE_CHECKING:
    import pandas as pd


AMPLIFIED = 2.5  # κ: how many times larger, of itself, the error is where the sets were chosen; docs/trust.md

SMALLEST = 1e-5  # nats: of a smaller loss float32 does not keep the margin


@dataclass(frozen=True)
class Error:
    """Of the predictions for one target, as one validation measured it. `slope` is β, `residual` σ, both of `subsets`
    sets of `left_out` images; `slope_error` the standard error of β; `square` the mean of τ² over all images;
    `relative` ν, and `reach` P, both in units of the target function but for ν; `loss` φ in nats where the target is
    the loss of one image, None of another."""

    slope: float
    residual: float
    slope_error: float
    left_out: int
    subsets: int
    square: float
    relative: float = 0.0
    reach: float = math.inf
    loss: float | None = None

    @classmethod
    def of(
        cls,
        predicted_M: Iterable[float],
        actual_M: Iterable[float],
        left_out: int,
        square: float,
        loss: float | None = None,
    ) -> "Error | None":
        """None where the predictions are all 0, or there are fewer subsets than decide."""
        p, a = np.asarray(list(predicted_M), np.float64), np.asarray(list(actual_M), np.float64)
        if len(p) < trust.DECISIVE or not (total := float((p**2).sum())):
            return None
        slope = float((p * a).sum() / total)
        residual = math.sqrt(float(((a - slope * p) ** 2).sum()) / (len(p) - 1))
        relative = math.sqrt(float(((a - p) ** 2).sum()) / total)
        reach = float(np.abs(p).max())
        return cls(slope, residual, residual / math.sqrt(total), left_out, len(p), square, relative, reach, loss)

    def more(self, count: int, squares: float) -> float:
        """r of a set of `count` images whose scores' squares add up to `squares`."""
        typical = self.left_out * self.square
        return max(count / self.left_out, squares / typical if typical else 0.0)

    def standard(self, change: float, count: int, squares: float) -> float:
        """se of the predicted `change`, in its units."""
        r = self.more(count, squares)
        variance = self.residual**2 * (r if r <= 1 else r**2)
        variance += change**2 * ((self.slope - 1) ** 2 + self.slope_error**2)
        return math.sqrt(variance + self.second_order(change, count) ** 2)

    def second_order(self, change: float, count: int) -> float:
        """What the second order may add, as a standard error: of the shares ±2ρ, and of the loss's own curve."""
        beyond = max(0.0, 1 - self.reach / abs(change)) if change else 0.0
        share = 2 * AMPLIFIED * self.relative * beyond * math.sqrt(max(1.0, count / self.left_out))
        ends = max(0.0, 1 - share), 1 + share
        return max(abs(self.moved(change * end) - change) for end in ends) / 2

    def moved(self, change: float) -> float:
        """f: the change of the value where the margin moves as much as `change` says that it does."""
        if self.loss is None or self.loss < SMALLEST:
            return change
        margin = -math.log(math.expm1(self.loss)) if self.loss < 30 else -self.loss
        then = margin + change / math.expm1(-self.loss)
        return float(np.logaddexp(0.0, -then)) - self.loss


Known = Mapping[str, list[Error]]
"""Of each target, by its key, what the run's validations say, one an `Error`."""


def known(record: Manifest) -> Known:
    """No key where no validation says anything. Damaged reports count for nothing."""
    refs = {ref.key: ref for ref in record.score_sets.targets()}
    errors: dict[str, list[Error]] = {}
    for report in trust.sound(record, trust.LDS)[0]:
        for target in report["targets"]:
            if (ref := refs.get(target["key"])) is None:
                continue
            square = float(np.square(record.score_sets.row(ref), dtype=np.float64).mean())
            loss = record.score_sets.loss_of_one(ref)
            error = Error.of(target["predicted"], target["actual"], report["left_out"], square, loss)
            if error is not None:
                errors.setdefault(ref.key, []).append(error)
    return errors


def of_set(errors: list[Error], scores_S: np.ndarray) -> float | None:
    """se of the change that is predicted for a set with these scores; None where nothing is known."""
    scores_S = np.asarray(scores_S, np.float64)
    if not errors or not len(scores_S):
        return None
    squares = float((scores_S**2).sum())
    nearest = min(errors, key=lambda error: abs(math.log(error.more(len(scores_S), squares))))
    return nearest.standard(-float(scores_S.sum()), len(scores_S), squares)


def standard_errors(record: Manifest, left_out: np.ndarray, errors: Known | None = None) -> dict[str, float | None]:
    """Of what is predicted for each target of the run where these images are left out, by its key; None where no
    validation says it. `errors`: what is `known`, where that was read before."""
    errors = known(record) if errors is None else errors
    refs = record.score_sets.targets()
    return {
        ref.key: of_set(errors.get(ref.key, []), scores_N[left_out])
        for ref, scores_N in zip(refs, record.score_sets.rows(refs), strict=True)
    }


def with_errors(report: Mapping, record: Manifest, errors: Known | None = None) -> list[dict]:
    """The targets of a what-if's report, each with the standard error that its prediction has by now: a validation may
    be younger than the report. None of labels that were changed, which nothing predicts."""
    now = standard_errors(record, np.array(report["left_out"], np.int64), errors)
    return [
        {**target, "standard_error": None if target["change"] is None else now.get(target["key"])}
        for target in report["targets"]
    ]


def outcomes(record: Manifest, report: dict) -> "pd.DataFrame":
    """`trust.outcomes` of a validation, with the standard error of each prediction (empty where it has too few subsets
    to say one)."""
    frame, errors = trust.outcomes(report), known(record)
    sets = [lds.subset(_images(record), report["drop"], report["seed"], m) for m in range(report["subsets"])]
    refs = {ref.key: ref for ref in record.score_sets.targets()}
    column: list[float | None] = []
    for target in report["targets"]:
        ref = refs.get(target["key"])
        scores_N = None if ref is None else record.score_sets.row(ref)
        of = errors.get(target["key"], [])
        column += [None if scores_N is None else of_set(of, scores_N[left_out]) for left_out in sets]
    frame.insert(list(frame.columns).index("actual"), "standard_error", column)
    return frame


def _images(record: Manifest) -> int:
    """Training images that the scores are of."""
    return len(record.score_sets.row(record.score_sets.targets()[0]))
