"""The job that checks scores by training again without random subsets of the training images."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from engine import files
from engine.analysis import lds, target_view, trust, wording
from engine.core.schedule import plan_for
from engine.datasets.base import Dataset
from engine.errors import ConfigError, IntegrityError
from engine.jobs import ahead, parts
from engine.jobs.job import Job, Phase, Result, require_trained
from engine.jobs.reports import numbers, write_report
from engine.jobs.sharing import Merging
from engine.runs.run import Run
from engine.runs.scores import TargetRef
from engine.targets import UploadedImage, target_function

if TYPE_CHECKING:
    from engine.jobs.retrained import Change, Logits
    from engine.jobs.session import Session

OWN = "all-"  # begins the names of retrainings with the run's own weights

PLAN = "plan-{}.json"  # in `validation/`, where shards do the retrainings

REPEATS = 4  # retrainings of the run's own weights, where the arithmetic may differ


@dataclass(frozen=True)
class Validate(Job):
    """Retrains without each of `subsets` random subsets of each fraction of `drops`, drawn from `seed`; one report a
    fraction and target function."""

    kind: ClassVar[str] = "validate"
    stages: ClassVar[tuple[str, ...]] = ("prepare", "retrain", "done")

    subsets: int
    drops: tuple[float, ...] = (0.01,)
    seed: int = 0

    def check(self, run: Run, dataset: Dataset) -> Self:
        require_trained(run)
        labels = dataset.train_labels
        trust.check_plan(self.subsets, self.drops, self.seed, len(labels))
        names = [f"{drop:g}" for drop in self.drops]
        if len(set(names)) < len(names):
            raise ConfigError(
                f"A fraction to leave out is named twice: {', '.join(names)}.",
                "Name each once; six digits tell them apart.",
                {"drop": "names a fraction twice"},
            )
        plan = plan_for(run.manifest().config.recipe, len(labels))
        for key, left_out in self.left_out(len(labels)).items():
            lds.check_left_out(left_out, labels, plan, f"Subset {key}")
        scored_targets(run)
        return self

    def keys(self, drop: float) -> list[str]:
        """Names of the retrainings of one fraction, in their order."""
        return [lds.key(drop, self.seed, m) for m in range(self.subsets)]

    def left_out(self, n: int) -> dict[str, np.ndarray]:
        """What each retraining leaves out of n examples, int64 [S] by key."""
        return {key: lds.subset(n, drop, self.seed, m) for drop in self.drops for m, key in enumerate(self.keys(drop))}

    def changes(self, n: int, width: int, repeats: int) -> "dict[str, Change]":
        """All retrainings by key: first those of the run's own weights, which measure the noise."""
        from engine.jobs.retrained import Change

        unchanged = {key: np.empty(0, np.int64) for key in self.unchanged(width, repeats)}
        return {key: Change(rows) for key, rows in (unchanged | self.left_out(n)).items()}

    def unchanged(self, width: int, repeats: int) -> list[str]:
        return [f"{OWN}{width}-{r}" for r in range(repeats)]

    def doing(self) -> str:
        shares = ", ".join(f"{100 * drop:g} %" for drop in self.drops)
        return f"Validating: {self.subsets * len(self.drops):,} retrainings, each without {shares} of the images"

    def ahead(self, run: Run, dataset: Dataset) -> tuple[Phase, ...]:
        done = trust.retrained(run.manifest())
        own = not any(name.startswith(OWN) for name in done)  # those of the run's own weights
        return ahead.retraining(run, dataset, trust.lacking(done, self.subsets, self.drops, self.seed) + own)

    def do(self, session: "Session") -> Result:
        from engine.jobs.reopen import reopen
        from engine.jobs.retrained import retrained, train_rows

        reopen(session)
        session.journal.update(status_said="validating")
        began = time.monotonic()
        scored = scored_targets(session.run)
        if own := [t.name for t in session.run.scores().targets() if isinstance(t.target, UploadedImage)]:
            session.journal.note(
                f"Retraining is judged on images of the data set, so these targets are not validated: {', '.join(own)}."
            )
        plan = decided(session, self)
        width, left_out = plan["width"], self.left_out(session.stream.data.n)
        changes = self.changes(session.stream.data.n, width, plan["repeats"])
        rows = train_rows(ref for refs in scored.values() for ref in refs)
        logits = retrained(session, changes, width, rows, kind=plan["kind"])
        unchanged = self.unchanged(width, plan["repeats"])
        seconds = time.monotonic() - began
        names = []
        for drop in self.drops:
            keys = self.keys(drop)
            for function, targets in scored.items():
                report = {
                    "kind": "lds",
                    "function": function,
                    "unit": target_function(function).short_unit,
                    "drop": drop,
                    "left_out": len(left_out[keys[0]]),
                    "subsets": self.subsets,
                    "seed": self.seed,
                    "side_by_side": width,
                    "device_name": session.run.manifest().device_name,
                    "retraining_seconds": round(seconds, 1),
                    **_report(
                        session,
                        function,
                        targets,
                        [left_out[key] for key in keys],
                        [logits[key] for key in keys],
                        [logits[key] for key in unchanged],
                    ),
                }
                names.append(f"lds-{target_function(function).slug}-{drop:g}-{self.seed}")
                write_report(session, names[-1], report)
                session.journal.note(f"Wrote validation/{names[-1]}.json: {_sentence(report)}")
        session.journal.timing("validate_seconds", time.monotonic() - began)
        files.remove_inside(session.run.path, plan_path(session.run, session.training, self, session.start))
        return Result(reports=tuple(names))


def plan_path(run: Run, training: str, job: Validate, start: int = 0) -> Path:
    """Of retrainings that begin before step `start`."""
    decides = [training, job.subsets, list(job.drops), job.seed, *([start] if start else [])]
    key = files.json_digest(decides)[:16]
    return run.path / "validation" / PLAN.format(key)


def decided(session: "Session", job: Validate) -> dict[str, Any]:
    """How the retrainings are done: `width` side by side, `repeats` of the run's own weights, and the `kind` of device.
    As their plan says, where shards have begun; else chosen here, where they are computed.

    Raises `ConfigError`, with both names, where they were begun on another kind of device and this process computes.
    """
    from engine.jobs import machine
    from engine.jobs.replay import origin_of
    from engine.jobs.retrained import side_by_side

    path, origin = plan_path(session.run, session.training, job, session.start), origin_of(session)
    if path.exists():
        plan = parts.plan_at(path)
    else:
        width = side_by_side(session)
        repeats = 1 if width == 1 and session.device.type == "cpu" else REPEATS
        plan = {"training": session.training, **job.record().fields, "width": width, "repeats": repeats, **origin}
        if session.sharing.shard is not None:
            plan = parts.agree(path, plan)
    if not isinstance(session.sharing, Merging):
        machine.check_one_kind(origin["kind"], plan["kind"], f"What is done of these retrainings ({path.name})")
    return plan


def scored_targets(run: Run) -> dict[str, list[TargetRef]]:
    """The run's targets on images of the data set, by target function. Raises `ConfigError` where there are none, and
    `IntegrityError` for scores of another training."""
    record = run.manifest()
    for sidecar in record.score_sets.sidecars():
        if sidecar["training_digest"] != record.training_digest:
            raise IntegrityError(
                f"The scores {sidecar['name']} of run {run.id} belong to another training.",
                "Delete the scores and attribute the targets again.",
            )
        if sidecar.get("window_start", 0) != record.window_start:
            raise IntegrityError(
                f"The scores {sidecar['name']} of run {run.id} are of weights that count from step "
                f"{sidecar.get('window_start', 0) + 1} on, and those of the run count from step "
                f"{record.window_start + 1}.",
                "Delete the scores and attribute the targets again.",
            )
    scored: dict[str, list[TargetRef]] = {}
    for target in record.score_sets.targets():
        if not isinstance(target.target, UploadedImage):  # a retraining is asked about images of the data set
            scored.setdefault(target.function, []).append(target)
    if not scored:
        raise ConfigError(f"Run {run.id} has no scores to validate.", "Attribute some test images or classes first.")
    return scored


def _report(
    session: "Session",
    function: str,
    targets: list[TargetRef],
    left_out: list[np.ndarray],
    logits: "list[Logits]",
    repeats: "list[Logits]",
) -> dict:
    """Predicted and actual change of each target over the M subsets, and their agreement.

    `logits` of each retraining; `repeats` those of the run's own weights, which measure the noise. The images of a
    target are those that it was scored for, whatever a retrained model takes them for.
    """
    run, dataset, phi = session.run, session.dataset, target_function(function).from_logits
    record = run.manifest()
    sets = [t.target.resolve(dataset, record.test_logits) for t in targets]
    trained = [target_view.at_target(record, dataset, t.target) for t in targets]  # logits and labels of each

    def values(model: "Logits") -> np.ndarray:
        return np.array([phi(model.at(s), labels).mean() for s, (_, labels) in zip(sets, trained, strict=True)])

    trained_K = np.array([phi(*pair).mean() for pair in trained])
    actual = np.stack([values(each) - trained_K for each in logits], axis=1)  # [K, M]
    noise = np.stack([values(each) - trained_K for each in repeats], axis=1)  # [K, R]
    predicted = lds.predicted(np.stack(record.score_sets.rows(targets)), left_out)
    each, mean = lds.agreement(predicted, actual)
    floor = np.sqrt((noise**2).mean(1))
    spread = actual.std(1)
    share = np.divide(floor**2, spread**2, out=np.zeros_like(floor), where=spread > 0)
    rows = [
        {
            "key": t.key,
            "name": t.name,
            "title": t.target.title(dataset),
            "value": float(v),
            **numbers(asdict(a)),
            "noise": float(f),
            "noise_share": float(s),
            "predicted": p.tolist(),
            "actual": q.tolist(),
        }
        for t, v, a, f, s, p, q in zip(targets, trained_K, each, floor, share, predicted, actual, strict=True)
    ]
    means = {
        "lds_mean": mean.lds,
        "lds_mean_low": mean.low,
        "lds_mean_high": mean.high,
        "slope_mean": mean.slope,
        "r2_mean": mean.r2,
    }
    return {
        **numbers(means),
        "targets_that_vary": int(np.isfinite([a.lds for a in each]).sum()),  # of which the means are taken
        "repeats": noise.shape[1],
        "noise_share": float(share.mean()),
        "targets": rows,
    }


def _sentence(report: dict) -> str:
    varied, subsets = report["targets_that_vary"], report["subsets"]
    targets = wording.count(len(report["targets"]), "targets")
    if not varied:
        return f"none of {targets} varied over {subsets} retrainings, so that there is no rank correlation."
    of = targets if varied == len(report["targets"]) else f"{varied} of {targets}, for the others did not vary"
    interval = "no interval"
    if report["lds_mean_low"] is not None:
        interval = f"95 % interval {report['lds_mean_low']:.3f} to {report['lds_mean_high']:.3f}"
    return f"rank correlation with {subsets} retrainings {report['lds_mean']:.3f}, mean of {of} ({interval})."
