"""How far to rely on what a report shows: the verdict, and what retraining gave beside what was foretold."""

from dataclasses import dataclass

from markupsafe import Markup

from engine.analysis import certainty, trust
from engine.analysis.scale import Scale
from engine.analysis.wording import between, count, duration, figure, percent
from engine.datasets.base import Dataset
from engine.report import drawings
from engine.runs.manifest import Manifest
from engine.runs.scores import TargetRef
from engine.targets import Target, target_function

MOST_NAMED = 8  # images of a what-if that are named

MOST_DRAWN = 60  # targets of the drawing of agreements: a page's height


@dataclass(frozen=True)
class Known:
    """The verdict, the sound validations it rests on, and of each target how far off its predictions are."""

    verdict: trust.Verdict
    reports: tuple[dict, ...]
    errors: certainty.Known

    def report_of(self, key: str) -> dict | None:
        """The validation that has a target: the one that decides, else the first."""
        first = [self.verdict.report] if self.verdict.report is not None else []
        return next((r for r in (*first, *self.reports) if any(t["key"] == key for t in r["targets"])), None)


@dataclass(frozen=True)
class Validation:
    heading: str
    words: str  # its mean, interval and lowest target, in sentences
    cells: tuple[tuple[str, str, str, str, str], ...]  # a row a target: its title, LDS, interval, slope, R²
    drawing: Markup | None


@dataclass(frozen=True)
class WhatIf:
    heading: str
    words: str
    cells: tuple[tuple[str, str, str, str], ...]  # a row a target: its title, value before, change foretold, retrained


@dataclass(frozen=True)
class Relied:
    """`level` of `trust.LEVELS`, its number from 0 (best), and the `step` that would settle it, or ""."""

    level: str
    number: int
    reason: str
    step: str
    smoothness: tuple[tuple[str, str], ...]
    validations: tuple[Validation, ...]
    what_ifs: tuple[WhatIf, ...]
    none: str  # said where nothing was retrained


def of(
    record: Manifest, dataset: Dataset, refs: tuple[TargetRef, ...], known: Known, evidence: trust.Evidence
) -> Relied:
    if method := record.method:
        return elsewhere(method)
    verdict, keys = known.verdict, {ref.key for ref in refs}
    validations = tuple(_validation(dataset, report, keys) for report in known.reports)
    reports, _ = trust.sound(record, trust.WHAT_IF)
    what_ifs = tuple(_what_if(record, dataset, known, report, keys) for report in reports)
    figures = (
        ("Agreement with retraining (LDS)", figure(verdict.lds)),
        ("Smoothness of the training (metasmoothness)", figure(verdict.metasmoothness)),
        ("Growth of early changes", "—" if verdict.growth is None else f"× {verdict.growth:.3g}"),
    )
    return Relied(
        level=f"{verdict.level[:1].upper()}{verdict.level[1:]}",
        number=trust.LEVELS.index(verdict.level),
        reason=verdict.reason,
        step=_step(record, verdict),
        smoothness=figures,
        validations=validations,
        what_ifs=what_ifs,
        none="" if validations or what_ifs else "No training was repeated to check these scores.",
    )


def elsewhere(method: str) -> Relied:
    """Of scores that another program made: nothing here can check them."""
    reason = (
        f"The scores are {method}'s and were made elsewhere; neither the training nor the model that they are of is "
        "here. Nothing is known of how far they foretell what a retraining would give."
    )
    return Relied("Not checked", 1, reason, "", (), (), (), "")


def _step(record: Manifest, verdict: trust.Verdict) -> str:
    if verdict.step is None:
        return ""
    if record.from_python:
        return "Its model is known in Python alone: a check by retraining is done there."
    seconds = verdict.step.seconds
    return verdict.step.in_words("" if seconds is None else duration(seconds))


def _title(name: str, function: str, dataset: Dataset) -> str:
    return f"{Target.parse(name).title(dataset)} · {target_function(function).in_words(dataset.classes)}"


def _validation(dataset: Dataset, report: dict, keys: set[str]) -> Validation:
    """Sentences on all of its targets; rows and drawing of those that are in the report."""
    targets = [target for target in report["targets"] if target["key"] in keys]
    titles = [_title(target["name"], report["function"], dataset) for target in targets]
    cells = tuple(
        (
            title,
            "did not vary" if target["lds"] is None else figure(target["lds"], 3),
            between(target["low"], target["high"]),
            figure(target["slope"]),
            figure(target["r2"]),
        )
        for title, target in zip(titles, targets, strict=True)
    )
    words = target_function(report["function"]).in_words(dataset.classes)
    heading = (
        f"{words[:1].upper()}{words[1:]}: {report['subsets']} retrainings, each without {100 * report['drop']:g} %"
    )
    lines = [(title, t["lds"], t["low"], t["high"]) for title, t in zip(titles, targets, strict=True)]
    drawing = (
        drawings.agreements(lines[:MOST_DRAWN], f"Agreement (LDS) of {count(len(lines), 'targets')}") if lines else None
    )
    return Validation(heading, _validated(dataset, report), cells, drawing)


def _validated(dataset: Dataset, report: dict) -> str:
    tried = (
        f"The model was trained {count(report['subsets'], 'times')} more, each time without "
        f"{count(report['left_out'], 'training images')} drawn at random (seed {report['seed']}"
        f"{', on ' + report['device_name'] if report['device_name'] else ''})."
    )
    varied = [target for target in report["targets"] if target["lds"] is not None]
    if not varied or report["lds_mean"] is None:
        return f"{tried} No target changed in a way that could be ranked."
    lowest = min(varied, key=lambda target: target["lds"])
    mean = (
        f"Over {count(len(varied), 'targets')} that varied, the rank correlation of foretold and actual change (LDS) is"
    )
    interval, lowest_of = between(report["lds_mean_low"], report["lds_mean_high"]), Target.parse(lowest["name"])
    return (
        f"{tried} {mean} {figure(report['lds_mean'], 3)} on average (95 % interval {interval}); the lowest is "
        f"{figure(lowest['lds'], 3)}, of {lowest_of.title(dataset)}. A slope of 1 says that changes are as large as "
        f"foretold: here it is {figure(report['slope_mean'])}. Retrainings with nothing left out differ by "
        f"{percent(report['noise_share'])} of the variance."
    )


def _what_if(record: Manifest, dataset: Dataset, known: Known, report: dict, keys: set[str]) -> WhatIf:
    cells = tuple(
        _tried(dataset, target)
        for target in certainty.with_errors(report, record, known.errors)
        if target["key"] in keys
    )
    before, after = report["test_accuracy_before"], report["test_accuracy"]
    words = [f"Test accuracy {percent(before)} before, {percent(after)} retrained."]
    if report["left_out"]:
        words.insert(0, f"Left out: {_named(report['left_out'])}.")
    if report["relabelled"]:
        pairs = [
            f"train:{index} as {dataset.classes[label] if label < len(dataset.classes) else label}"
            for index, label in report["relabelled"].items()
        ]
        more = f" and {len(pairs) - MOST_NAMED:,} more" if pairs[MOST_NAMED:] else ""
        words.insert(-1, f"Relabelled: {', '.join(pairs[:MOST_NAMED])}{more}.")
    if test := report.get("test"):
        words.append(
            f"{count(test['corrected'], 'test images')} right only after it, {test['spoiled']:,} right only before it."
        )
    return WhatIf(_changed(report), " ".join(words), cells)


def _changed(report: dict) -> str:
    parts = [f"{count(len(report['left_out']), 'images')} left out"] if report["left_out"] else []
    parts += [f"{count(len(report['relabelled']), 'images')} relabelled"] if report["relabelled"] else []
    return f"What if: {' and '.join(parts)}"


def _named(indices: list[int]) -> str:
    more = f" and {len(indices) - MOST_NAMED:,} more" if indices[MOST_NAMED:] else ""
    return f"{', '.join(f'train:{index}' for index in indices[:MOST_NAMED])}{more}"


def _tried(dataset: Dataset, target: dict) -> tuple[str, str, str, str]:
    """The change of the target's own function, foretold and as it came, in one unit."""
    function = target["function"]
    now = (target["before"] or {}).get(function)
    then = (target["actual"] or {}).get(function)
    actual = None if now is None or then is None else then - now
    changes = [change for change in (target["change"], actual) if change is not None]
    scale = Scale.of(changes, function)
    predicted = (
        "not foretold: no score says what another label does"
        if target["change"] is None
        else f"{scale.plus_minus(target['change'], target['standard_error'])} {scale.unit}"
    )
    return (
        _title(target["name"], function, dataset),
        "—" if now is None else f"{figure(now, 4)} {target_function(function).short_unit}",
        predicted,
        "not retrained" if actual is None else f"{scale.number(actual)} {scale.unit}",
    )
