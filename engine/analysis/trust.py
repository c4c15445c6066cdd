"""What is known of a run's trustworthiness: reports on disk, predictions of what-ifs, a verdict. No torch.

    validation/
      lds-<function>-<drop>-<seed>.json   agreement with retraining (`engine.analysis.lds`), by the job `validate`
      what-if-<n>.json                    one retraining without some images, or with other labels
      smoothness.json                     metasmoothness (`engine.core.retraining`)
      retrained/<key>.safetensors         test logits float32 [N_test, C] of each retraining: what the
                                          reports are computed from, so that none is trained twice

Each report is listed, with its checksum, in the manifest, and names the training digest it belongs to.
"""

import math
from dataclasses import dataclass

import pandas as pd

from engine import files
from engine.errors import IntegrityError
from engine.runs import fields
from engine.runs.fields import Absent, by_index, by_name, finite, number, optional, text, whole
from engine.runs.manifest import Manifest

LDS, WHAT_IF, SMOOTHNESS = "lds-", "what-if-", "smoothness"

CHANGES = "predicted", "actual"  # of a report: of each target, one a subset

FIGURE = optional(finite)  # of a report: none where nothing varied, or it was not measured

FIGURES = optional(by_name(FIGURE))  # by target function, and the probability of the true label

SHAPES = {  # what is relied on of each report, by the beginning of its name
    LDS: {
        **dict.fromkeys(("function", "unit"), text),
        **dict.fromkeys(("left_out", "subsets", "seed", "repeats"), whole),
        **dict.fromkeys(("lds_mean", "lds_mean_low", "lds_mean_high", "slope_mean", "r2_mean", "noise_share"), FIGURE),
        "drop": number,
        "device_name": optional(text),
        "targets": [
            {
                **dict.fromkeys(("key", "name", "title"), text),
                **dict.fromkeys(("lds", "low", "high", "slope", "r2", "noise_share"), FIGURE),
                **dict.fromkeys(CHANGES, [finite]),
            }
        ],
    },
    WHAT_IF: {
        **dict.fromkeys(("test_accuracy", "test_accuracy_before"), number),
        "left_out": [whole],
        "relabelled": by_index(whole),
        "targets": [
            {
                **dict.fromkeys(("key", "name", "function"), text),
                **dict.fromkeys(("before", "predicted", "actual"), FIGURES),
                "change": FIGURE,
            }
        ],
        "test": Absent(
            {
                **dict.fromkeys(("loss_before", "loss_after"), [FIGURE]),
                **dict.fromkeys(("changed", "corrected", "spoiled"), whole),
                "images": [
                    {
                        **dict.fromkeys(("index", "before", "after"), whole),
                        **dict.fromkeys(("probability_before", "probability_after"), number),
                    }
                ],
            }
        ),
    },
    SMOOTHNESS: {"directions": [FIGURE], "mean": FIGURE},
}

LEVELS = ("trustworthy", "check before you rely on it", "do not rely on it")

MEASURED = 20  # subsets from which on a measured agreement decides the verdict

# Over the recipes of docs/trust.md the LDS was 0.86 to 1.00 (median 0.99) within both limits of smoothness,
# and −0.01 to 0.58 (median 0.12) below a metasmoothness of 0.5, or 0.20 at most above a growth of 8.
GOOD_LDS, POOR_LDS = 0.9, 0.6

GOOD_SMOOTHNESS, POOR_SMOOTHNESS = 0.95, 0.5

SMOOTH_GROWTH, CHAOTIC_GROWTH = 2.0, 8.0


@dataclass(frozen=True)
class Verdict:
    """`level` of `LEVELS`, the reason in a sentence or two, and what it rests on (None: not measured)."""

    level: str
    reason: str
    growth: float | None  # largest growth of an adjoint's norm
    metasmoothness: float | None  # mean over directions
    lds: float | None  # of the report that decides


# -- reports


def reports(record: Manifest) -> list[dict]:
    """Agreement with retraining, the smallest fraction left out first; each with its name under `name`."""
    return sorted(_read(record, LDS), key=lambda r: (r["drop"], r["function"], r["seed"]))


def what_ifs(record: Manifest) -> list[dict]:
    """What was retrained, oldest first; each with its name under `name`."""
    return _read(record, WHAT_IF)


def smoothness(record: Manifest) -> dict | None:
    return next(iter(_read(record, SMOOTHNESS)), None)


def _read(record: Manifest, prefix: str) -> list[dict]:
    remedy = f"Delete the validation of run {record.run_id} in Runs and storage and validate again."
    found = []
    for relative, sha in record.files.items():
        folder, _, name = relative.partition("/")
        if folder != "validation" or not name.startswith(prefix) or not name.endswith(".json"):
            continue
        report = files.read_json(record.folder / relative, remedy, sha)
        try:
            fields.check(report, SHAPES[prefix])
            if prefix == LDS and any(len(t[w]) != report["subsets"] for t in report["targets"] for w in CHANGES):
                raise ValueError("a target has more or fewer changes than there are subsets")
        except (TypeError, ValueError, KeyError) as error:
            raise IntegrityError(f"{record.folder / relative} is no such report ({error}).", remedy) from None
        if report.get("training_digest") != record.training_digest:
            raise IntegrityError(f"{record.folder / relative} belongs to another training.", remedy)
        found.append({**report, "name": name.removesuffix(".json")})
    return found


def outcomes(report: dict) -> pd.DataFrame:
    """A report's predicted and actual changes, one row a target and subset, for other tools."""
    return pd.DataFrame(
        [
            {
                "target": t["key"],
                "drop": report["drop"],
                "seed": report["seed"],
                "subset": m,
                "predicted": p,
                "actual": a,
                "unit": report["unit"],
            }
            for t in report["targets"]
            for m, (p, a) in enumerate(zip(t["predicted"], t["actual"], strict=True))
        ]
    )


# -- the verdict


def _weight(report: dict) -> tuple[float, float]:
    """Which report decides: of the smallest fraction left out, to which a derivative speaks best, the one with the
    narrowest interval, whatever its seed and function."""
    low, high = report["lds_mean_low"], report["lds_mean_high"]
    return report["drop"], math.inf if low is None or high is None else high - low


def _bound(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f}"


def verdict(record: Manifest) -> Verdict:
    """Measured agreement decides where there is one; else what smoothness foretells."""
    growth = max((t["adjoint_growth"] for s in record.score_sets.sidecars() for t in s["targets"]), default=None)
    report, smooth = smoothness(record), None
    if report is not None:
        smooth = report["mean"]
    measured = [r for r in reports(record) if r["subsets"] >= MEASURED and r["lds_mean"] is not None]
    if measured:
        r = min(measured, key=_weight)
        level = LEVELS[0] if r["lds_mean"] >= GOOD_LDS else LEVELS[1] if r["lds_mean"] >= POOR_LDS else LEVELS[2]
        reason = (
            f"Measured: over {r['subsets']} retrainings that each left out {100 * r['drop']:g} % of the images, the "
            f"scores' rank correlation with what happened is {r['lds_mean']:.2f} "
            f"(95 % interval {_bound(r['lds_mean_low'])} to {_bound(r['lds_mean_high'])})."
        )
        return Verdict(level, reason, growth, smooth, r["lds_mean"])
    if growth is None:
        return Verdict(LEVELS[1], "There are no scores yet.", None, smooth, None)
    grew = f"From the end of training to its start the adjoint's norm grew × {growth:.3g} at most"
    if growth > CHAOTIC_GROWTH or (smooth is not None and smooth < POOR_SMOOTHNESS):
        level, so = LEVELS[2], "training is chaotic, and its derivatives foretell little"
    elif smooth is None:
        level, so = LEVELS[1], "a small growth is no proof, so measure the smoothness, or validate"
    elif growth > SMOOTH_GROWTH or smooth < GOOD_SMOOTHNESS:
        level, so = LEVELS[1], "training is not quite smooth, so validate"
    else:
        level, so = LEVELS[0], "recipes as smooth as this agreed with retraining"
    measured = "" if smooth is None else f", and the metasmoothness is {smooth:.2f}"
    return Verdict(level, f"{grew}{measured}: {so}.", growth, smooth, None)
