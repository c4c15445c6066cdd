"""How often a what-if's ±2 standard errors hold, and what gradient norms rank: from the reports of a run on disk.

    python -m engine validate RUN --subsets 48 --drop 0.01,0.05
    python -m engine removal RUN --target KEY --share 0.001,0.01,0.05        (of as many targets as one likes)
    python -m tools.calibration RUN

Each validation's subsets are cut into four: three parts say the standard error, the fourth what happens. Then one size
says the error of the other; and all of them that of the removal curves, whose sets are of the largest scores, and of
what-ifs.
"""

import argparse
from collections import defaultdict

import numpy as np

from engine.analysis import certainty, lds, removal, target_view, trust
from engine.runs.manifest import Manifest
from engine.runs.run import Run, outputs_root

FOLDS = 4


def ratios(record: Manifest, report: dict, of: dict, parts: list[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """|actual − predicted| / se over the subsets of `report`: for each of `parts` (those that say the error of the
    report `of`, those that are judged)."""
    found = []
    for target, other in zip(report["targets"], of["targets"], strict=True):
        ref = record.score_sets.target(target["key"])
        scores_N, loss = record.score_sets.row(ref).astype(np.float64), record.score_sets.loss_of_one(ref)
        square = float((scores_N**2).mean())
        p, a = np.array(target["predicted"]), np.array(target["actual"])
        q, b = np.array(other["predicted"]), np.array(other["actual"])
        for fitted, judged in parts:
            error = certainty.Error.of(q[fitted], b[fitted], of["left_out"], square, loss)
            if error is None:
                raise SystemExit(f"{of['name']} has fewer subsets than decide")
            for m in judged.tolist():
                left_out = lds.subset(len(scores_N), report["drop"], report["seed"], m)
                found.append(abs(a[m] - p[m]) / (certainty.of_set([error], scores_N[left_out]) or np.nan))
    return found


def say(what: str, found: list[float]) -> None:
    ratio = np.array(found)
    print(f"| {what} | {len(ratio):,} | {(ratio <= 2).mean():.1%} | {np.median(ratio):.2f} | {ratio.max():.1f} |")


def removals(record: Manifest) -> dict[str, list[float]]:
    """By what was left out, of the newest curve of each target."""
    errors, found = certainty.known(record), defaultdict(list)
    for ref in record.score_sets.targets():
        scores_N = record.score_sets.row(ref)
        for report in removal.reports(record, ref.key)[:1]:
            fractions = sorted({each["fraction"] for each in report["sets"]})
            draws = max((each["draw"] + 1 for each in report["sets"] if each["side"] == removal.RANDOM), default=0)
            sets = removal.sets(scores_N, ref.function, fractions, removal.SIDES, draws, report["seed"])
            rows = {(each.side, each.fraction, each.draw): each.left_out for each in sets}
            for each in report["sets"]:
                left_out = rows[each["side"], each["fraction"], each["draw"]]
                standard = certainty.of_set(errors.get(ref.key, []), scores_N[left_out])
                if standard:
                    found[f"{each['side']} {100 * each['fraction']:g} %"].append(
                        abs(each["actual"] - each["predicted"]) / standard
                    )
    return dict(sorted(found.items()))


def tried(record: Manifest) -> list[float]:
    """Of all targets, of what people left out with *Check by retraining*, or a tool did for them."""
    errors, found = certainty.known(record), []
    for report in trust.what_ifs(record):
        for target in certainty.with_errors(report, record, errors):
            if target["standard_error"] and target["actual"] is not None:
                actual = target["actual"][target["function"]] - target["before"][target["function"]]
                found.append(abs(actual - target["change"]) / target["standard_error"])
    return found


def gradients(record: Manifest, report: dict) -> float:
    """Spearman's correlation over the targets of gradient norm and the spread of what happened."""
    refs = [record.score_sets.target(target["key"]) for target in report["targets"]]
    norms = [target_view.gradient_norm(record, ref) for ref in refs]
    spread = [float(np.std(target["actual"])) for target in report["targets"]]
    return float(lds.spearman(np.array([norms], float), np.array([spread]))[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--outputs")
    call = parser.parse_args()
    record = Run.open(outputs_root(call.outputs), call.run).manifest()
    reports = trust.reports(record)
    print("| left out | predictions | within ±2 se | median error / se | largest |\n|---|---|---|---|---|")
    for report in reports:
        parts = np.array_split(np.arange(report["subsets"]), FOLDS)
        folds = [(np.setdiff1d(np.arange(report["subsets"]), part), part) for part in parts]
        say(f"random {100 * report['drop']:g} %, held out", ratios(record, report, report, folds))
    for report in reports:
        for of in reports:
            if of["function"] == report["function"] and of["drop"] != report["drop"]:
                whole = [(np.arange(of["subsets"]), np.arange(report["subsets"]))]
                name = f"random {100 * report['drop']:g} %, error from {100 * of['drop']:g} %"
                say(name, ratios(record, report, of, whole))
    for what, found in removals(record).items():
        say(f"{what} (removal curves)", found)
    if found := tried(record):
        say("what-ifs that were checked", found)
    for report in reports:
        rank = gradients(record, report)
        print(f"gradient norm against the spread without {100 * report['drop']:g} %: rank correlation {rank:.2f}")


if __name__ == "__main__":
    main()
