"""What is known of a run's trustworthiness: reports on disk, predictions of what-ifs, a verdict. No torch.

    validation/
      lds-<function>-<drop>-<seed>.json   agreement with retraining (`engine.analysis.lds`), by the job `validate`
      what-if-<n>.json                    one retraining without some images, or with other labels
      smoothness.json                     metasmoothness (`engine.core.retraining`)
      removal-<n>.json                    without a target's most helpful or harmful images (`engine.analysis.removal`)
      curvature.json                      largest curvature × rate at some steps (`engine.core.curvature`)
      retrained/<key>.safetensors         test logits float32 [N_test, C] of each retraining: what the
                                          reports are computed from, so that none is trained twice

Each report is listed, with its checksum, in the manifest, and names the training digest it belongs to.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine import files
from engine.analysis import lds
from engine.errors import ConfigError, IntegrityError
from engine.runs import fields
from engine.runs.fields import Absent, by_index, by_name, finite, number, optional, text, whole
from engine.runs.manifest import Manifest
from engine.targets import UploadedImage

if TYPE_CHECKING:
    import pandas as pd

LDS, WHAT_IF, SMOOTHNESS, REMOVAL = "lds-", "what-if-", "smoothness", "removal-"

CURVATURE = "curvature"

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
                "standard_error": Absent(FIGURE),
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
    REMOVAL: {
        **dict.fromkeys(("target", "function", "unit"), text),
        **dict.fromkeys(("images", "seed"), whole),
        "device_name": optional(text),
        "before": by_name(finite),
        "label": optional(whole),
        "sets": [
            {
                "side": text,
                **dict.fromkeys(("draw", "left_out"), whole),
                **dict.fromkeys(("fraction", "flipped"), number),
                **dict.fromkeys(("predicted", "actual"), finite),
                "standard_error": FIGURE,
                "after": by_name(finite),
                "label": optional(whole),
            }
        ],
    },
    CURVATURE: {"steps": [whole], "values": [FIGURE], "limit": FIGURE},
}

LEVELS = ("trustworthy", "check before you rely on it", "do not rely on it")

# How many subsets a validation has: decided here, and read by the form, the command line, the check of the job, the
# verdict and, through a test, docs/trust.md.
FEWEST = 5  # a rank correlation of fewer says nothing: they are refused
DECISIVE = 20  # from which on the measured agreement is the verdict
PROPOSED = 32  # what form and command line begin with
NARROW = 50  # give a useful interval
MOST = 10_000

NEEDED = f"A verdict needs {DECISIVE} subsets"

FRACTIONS = 0.01, 0.05, 0.1  # to leave out: scores are exact for small changes, so the smallest that leaves out any

# Over the recipes of docs/trust.md the LDS was 0.86 to 1.00 (median 0.99) within both limits of smoothness,
# and −0.01 to 0.58 (median 0.12) below a metasmoothness of 0.5, or 0.20 at most above a growth of 8.
GOOD_LDS, POOR_LDS = 0.9, 0.6

GOOD_SMOOTHNESS, POOR_SMOOTHNESS = 0.95, 0.5

SMOOTH_GROWTH, CHAOTIC_GROWTH = 2.0, 8.0


def check_plan(subsets: int, drops: tuple[float, ...], seed: int, n: int) -> None:
    """Raises `ConfigError` where a validation of `n` training images cannot be done so."""
    if isinstance(subsets, bool) or not isinstance(subsets, int) or not FEWEST <= subsets <= MOST:
        raise ConfigError(
            f"A rank correlation needs from {FEWEST} to {MOST:,} subsets, not {subsets}.",
            f"Choose {DECISIVE} or more, which decide the verdict; {NARROW} give a useful interval.",
            {"subsets": f"must be from {FEWEST} to {MOST:,}"},
        )
    if not drops:
        raise ConfigError(
            "No fraction to leave out was named.", "Choose one or more, such as 0.01.", {"drop": "name at least one"}
        )
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise ConfigError(
            f"The seed must be a whole number from 0 to {2**31 - 1}, not {seed!r}.",
            "Choose 0.",
            {"seed": "is out of range"},
        )
    for drop in drops:
        lds.size_of_drop(n, drop)


# -- reports


def reports(record: Manifest) -> list[dict]:
    """Agreement with retraining, the smallest fraction left out first; each with its name under `name`."""
    return sorted(_all(record, LDS), key=_order)


def what_ifs(record: Manifest) -> list[dict]:
    """What was retrained, oldest first; each with its name under `name`."""
    return _all(record, WHAT_IF)


def smoothness(record: Manifest) -> dict | None:
    return next(iter(_all(record, SMOOTHNESS)), None)


def sound(record: Manifest, prefix: str) -> tuple[list[dict], list[IntegrityError]]:
    """The reports of one kind that can be read, and what is wrong with each of the others."""
    reports, damage = [], []
    for relative in _paths(record, prefix):
        try:
            reports.append(_read(record, relative, prefix))
        except IntegrityError as error:
            damage.append(error)
    return sorted(reports, key=_order) if prefix == LDS else reports, damage


def _order(report: dict) -> tuple:
    return report["drop"], report["function"], report["seed"]


def _all(record: Manifest, prefix: str) -> list[dict]:
    return [_read(record, relative, prefix) for relative in _paths(record, prefix)]


def _paths(record: Manifest, prefix: str) -> Iterator[str]:
    for relative in record.files:
        folder, _, name = relative.partition("/")
        if folder == "validation" and name.startswith(prefix) and name.endswith(".json"):
            yield relative


def _read(record: Manifest, relative: str, prefix: str) -> dict:
    remedy = f"Delete the validation of run {record.run_id} in Runs and storage and validate again."
    report = files.read_json(record.folder / relative, remedy, record.files[relative])
    try:
        fields.check(report, SHAPES[prefix] | {"window_start": Absent(whole)})
        if prefix == LDS and any(len(t[w]) != report["subsets"] for t in report["targets"] for w in CHANGES):
            raise ValueError("a target has more or fewer changes than there are subsets")
        if prefix == CURVATURE and len(report["steps"]) != len(report["values"]):
            raise ValueError("it has more or fewer values than steps")
    except (TypeError, ValueError, KeyError) as error:
        raise IntegrityError(f"{record.folder / relative} is no such report ({error}).", remedy) from None
    if report.get("training_digest") != record.training_digest:
        raise IntegrityError(f"{record.folder / relative} belongs to another training.", remedy)
    if report.get("window_start", 0) != record.window_start:
        raise IntegrityError(
            f"{record.folder / relative} is of another window: of retrainings from step "
            f"{report.get('window_start', 0) + 1} on, and the run's weights count from step {record.window_start + 1}.",
            remedy,
        )
    return {**report, "name": relative.partition("/")[2].removesuffix(".json")}


def outcomes(report: dict) -> "pd.DataFrame":
    """A report's predicted and actual changes, one row a target and subset, for other tools."""
    import pandas as pd

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


@dataclass(frozen=True)
class Evidence:
    """All that is known of how far to rely on a run's scores; what the verdict is a function of."""

    scored: bool = True
    targets: frozenset[str] = frozenset()  # keys of those that a validation asks about: images of the data set
    growth: float | None = None  # largest growth of an adjoint's norm; None: not recorded
    smoothness: float | None = None  # mean metasmoothness over directions; None: not measured, or nothing moved
    reports: tuple[dict, ...] = ()  # that can be read, the smallest fraction first
    damage: tuple[IntegrityError, ...] = ()  # what is wrong with each file that cannot
    retrained: frozenset[str] = frozenset()  # keys of the retrainings that are kept (`lds.key`)
    seconds: float | None = None  # of one retraining, as measured on this run, or of its training
    images: int | None = None  # of the training split; None: not known here


@dataclass(frozen=True)
class Step:
    """A validation that would settle the verdict, and what it costs: `missing` retrainings are not there yet."""

    why: str  # a sentence without its end
    subsets: int
    drop: float
    seed: int
    missing: int
    seconds: float | None  # None: nothing was measured on this run

    def in_words(self, duration: str) -> str:
        """The whole sentence; `duration` is `seconds` as people read it, "" where that is not known."""
        if not self.missing:
            return f"{self.why}: all of its retrainings are there, so it takes a moment."
        whole = self.missing == self.subsets  # else it goes on from some
        more = f"{self.missing:,} {'retrainings' if whole else 'more'}"
        if not duration:
            return f"{self.why}: {more}, each about as long as the training."
        return f"{self.why}: {more} take{'s' * (self.missing == 1)} about {duration}."


@dataclass(frozen=True)
class Verdict:
    """`level` of `LEVELS`, what is known in a sentence, what it rests on (None: not measured), and what would settle it
    (None: nothing would, or it is settled)."""

    level: str
    reason: str
    growth: float | None  # largest growth of an adjoint's norm
    metasmoothness: float | None  # mean over directions
    lds: float | None  # of the report that decides
    step: Step | None = None
    report: dict | None = None  # that the reason speaks of: it decides, or has the most subsets of too few


def verdict(record: Manifest, images: int | None = None) -> Verdict:
    """Measured agreement decides where there is enough of it; else what smoothness foretells. `images`: of the
    training split, where that is known."""
    return judge(evidence(record, images))


def evidence(record: Manifest, images: int | None = None) -> Evidence:
    """Reads what there is; a damaged report counts for nothing, and is named in `damage`."""
    refs = record.score_sets.targets()
    growths = [t.get("adjoint_growth") for sidecar in record.score_sets.sidecars() for t in sidecar["targets"]]
    smooth, no_smoothness = sound(record, SMOOTHNESS)
    reports, no_reports = sound(record, LDS)
    return Evidence(
        bool(refs),
        frozenset(ref.key for ref in refs if not isinstance(ref.target, UploadedImage)),
        max((growth for growth in growths if growth is not None), default=None),
        next((report["mean"] for report in smooth), None),
        tuple(reports),
        (*no_reports, *no_smoothness),
        retrained(record),
        retraining_seconds(record),
        images,
    )


def retrained(record: Manifest) -> frozenset[str]:
    """Names of the retrainings that are on disk, whatever they were done for."""
    return frozenset(path.stem for path in (record.folder / "validation" / "retrained").glob("*.safetensors"))


def lacking(done: frozenset[str], subsets: int, drops: Iterable[float], seed: int) -> int:
    """How many retrainings of a validation are still to be done where those `done` are on disk, without those of the
    run's own weights."""
    return len({lds.key(drop, seed, m) for drop in drops for m in range(subsets)} - done)


def retraining_seconds(record: Manifest) -> float | None:
    """Of one retraining: the mean of those that this run has done, else what its training took."""
    timings = record.timings
    done = timings.get("retrainings")
    return timings["retrain_seconds"] / done if done and "retrain_seconds" in timings else timings.get("train_seconds")


def judge(known: Evidence) -> Verdict:
    """One verdict for every combination of what may be known."""
    if not known.scored:
        return Verdict(LEVELS[1], f"There are no scores yet.{_damaged(known)}", None, known.smoothness, None)
    enough = [report for report in known.reports if report["subsets"] >= DECISIVE]
    measured = [report for report in enough if report["lds_mean"] is not None]
    few = [report for report in known.reports if report["subsets"] < DECISIVE]
    report = min(measured, key=_weight) if measured else min(few, key=_completeness) if few else (enough or [None])[0]
    if report is None:
        level, reason, step = _unvalidated(known)
    elif measured:
        level, reason, step = _decided(known, report, few)
    elif few:
        level, reason, step = _undecided(known, report)
    else:
        level, reason, step = _unvaried(known, report)
    lds_mean = report["lds_mean"] if report is not None and measured else None
    return Verdict(level, reason + _damaged(known), known.growth, known.smoothness, lds_mean, step, report)


def _decided(known: Evidence, report: dict, few: list[dict]) -> tuple[str, str, Step | None]:
    """By a measured agreement; a smaller fraction, of which there are too few subsets, would decide instead."""
    level, reason, step = _level(report["lds_mean"]), f"{_validated(known, report)}.", None
    smaller = [each for each in few if each["drop"] < report["drop"]]
    if smaller:
        best = min(smaller, key=_completeness)
        so_far = f"Without {_percent(best['drop'])} of them there are {best['subsets']} of {DECISIVE} subsets so far"
        step = _completed(known, best, so_far)
    elif _explained_since(known, report):
        step = _completed(known, report, "Validated again, it takes them in")
    return level, reason, step


def _undecided(known: Evidence, report: dict) -> tuple[str, str, Step | None]:
    """Fewer subsets than decide: what smoothness foretells holds, unless they speak against it already."""
    level, foretold = _foretold(known)
    if level == LEVELS[0] and (report["lds_mean"] is None or report["lds_mean"] < GOOD_LDS):
        level = LEVELS[1]
    return level, f"{_validated(known, report)}{foretold and f'; {foretold}'}.", _completed(known, report, NEEDED)


def _unvaried(known: Evidence, report: dict) -> tuple[str, str, Step | None]:
    """Enough subsets, and nothing to rank: more of them would be no better, larger ones may be."""
    level, foretold = _foretold(known)
    larger = next((fraction for fraction in FRACTIONS if fraction > report["drop"]), None)
    step = None if larger is None else _validation(known, f"Subsets of {_percent(larger)} may say more", larger)
    reason = f"{_validated(known, report)}{foretold and f'; {foretold}'}."
    return LEVELS[1] if level == LEVELS[0] else level, reason, step


def _unvalidated(known: Evidence) -> tuple[str, str, Step | None]:
    level, foretold = _foretold(known)
    reason = f"Not validated; {foretold}." if foretold else "Neither validated, nor is its smoothness measured."
    if not known.targets:
        return level, f"{reason} A validation asks about images of the data set; all targets are uploaded ones.", None
    smallest = next((f for f in FRACTIONS if known.images is None or 0 < round(f * known.images) < known.images), None)
    if smallest is None:
        return level, f"{reason} There are too few training images to leave out a share of them.", None
    return level, reason, _validation(known, NEEDED, smallest)


def _weight(report: dict) -> tuple[float, float]:
    """Which report decides: of the smallest fraction left out, to which a derivative speaks best, the one with the
    narrowest interval, whatever its seed and function."""
    low, high = report["lds_mean_low"], report["lds_mean_high"]
    return report["drop"], math.inf if low is None or high is None else high - low


def _completeness(report: dict) -> tuple:
    """Of those with too few subsets, which is nearest to a verdict."""
    return report["drop"], -report["subsets"], report["lds_mean"] is None, *_weight(report)


def _level(value: float) -> str:
    return LEVELS[0] if value >= GOOD_LDS else LEVELS[1] if value >= POOR_LDS else LEVELS[2]


def _foretold(known: Evidence) -> tuple[str, str]:
    """What smoothness foretells: a level, and half a sentence; "" where it foretells nothing."""
    growth, smooth = known.growth, known.smoothness
    grew = "" if growth is None else f"early changes grow × {growth:.3g} at most"
    facts = [f"smoothness {figure(smooth)}"] if smooth is not None else []
    told = ", ".join([*facts, *([grew] if grew else [])])
    if (growth is not None and growth > CHAOTIC_GROWTH) or (smooth is not None and smooth < POOR_SMOOTHNESS):
        return LEVELS[2], f"its training is chaotic ({told}), so that its scores foretell little"
    if smooth is None:
        return LEVELS[1], ""  # a small growth alone is no proof
    if smooth < GOOD_SMOOTHNESS or (growth is not None and growth > SMOOTH_GROWTH):
        return LEVELS[1], f"its training is not quite smooth ({told})"
    if growth is None:
        return LEVELS[1], f"its training is smooth as far as is recorded ({told})"
    return LEVELS[0], f"its training is as smooth ({told}) as those whose scores agreed with retraining"


def _validated(known: Evidence, report: dict) -> str:
    """What one validation gave, as a sentence without its end."""
    since = len(_explained_since(known, report))
    of = f". {since} targets were explained since" if since > 1 else ". One target was explained since" if since else ""
    said = f"Validated with {report['subsets']} subsets, each without {_percent(report['drop'])} of the images: "
    if report["lds_mean"] is None:
        return f"{said}no target changed in a way that could be ranked, so that there is no LDS{of}"
    interval = _interval(report["lds_mean_low"], report["lds_mean_high"])
    varied = sum(target["lds"] is not None for target in report["targets"])
    some = (
        "" if varied == len(report["targets"]) else f", of the {varied} of {len(report['targets'])} targets that vary"
    )
    return f"{said}LDS {figure(report['lds_mean'])} ({interval}){some}{of}"


def _explained_since(known: Evidence, report: dict) -> set[str]:
    """Targets of its function that a validation does not cover: it was made before they were explained."""
    of_function = {key for key in known.targets if key.endswith(f".{report['function']}")}
    return of_function - {target["key"] for target in report["targets"]}


def _damaged(known: Evidence) -> str:
    if not known.damage:
        return ""
    one = len(known.damage) == 1
    files_are = "One file of its validation is" if one else f"{len(known.damage)} files of its validation are"
    return f" {files_are} damaged, and {'does' if one else 'do'} not count."


def _completed(known: Evidence, report: dict, why: str) -> Step | None:
    """The same validation with as many subsets as decide; those that it has are the first of them."""
    return _validation(known, why, report["drop"], report["seed"], max(DECISIVE, report["subsets"]))


def _validation(known: Evidence, why: str, drop: float | None, seed: int = 0, subsets: int = DECISIVE) -> Step | None:
    """None where no fraction leaves out an image, or there is nothing to ask about."""
    if drop is None or not known.targets:
        return None
    missing = lacking(known.retrained, subsets, (drop,), seed)
    return Step(why, subsets, drop, seed, missing, None if known.seconds is None else missing * known.seconds)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:g} %"


def figure(value: float) -> str:
    """Two decimals, as sentences on trust and on comparisons have them."""
    return f"{value:.2f}".replace("-", "−")


def _interval(low: float | None, high: float | None) -> str:
    return "no interval" if low is None or high is None else f"{figure(low)} to {figure(high)}"
