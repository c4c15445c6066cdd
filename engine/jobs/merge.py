"""Putting together what shards did, after a look at every file of it.

All that is wrong with a set is named at once: shards that are missing, files that are damaged or foreign, parts that
two files hold with other bits, and kinds of devices that were mixed. Nothing is computed here but the reports, so that
a host without a GPU can merge what GPUs did.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.core.schedule import plan_for
from engine.datasets import registry as dataset_registry
from engine.datasets.base import Dataset
from engine.errors import ConfigError, IntegrityError, ReplayError, RunBusyError
from engine.jobs import parts
from engine.jobs.execute import execute
from engine.jobs.job import Job, Result
from engine.jobs.journal import OnEvent
from engine.jobs.parts import PartFile, TargetSet
from engine.jobs.reopen import plan_digest
from engine.jobs.replay import Replay
from engine.jobs.retrained import UNNAMED, header_of, train_rows
from engine.jobs.sharing import Merging
from engine.jobs.validation import PLAN, Validate, plan_path, scored_targets
from engine.runs.run import Run
from engine.trajectory.state_files import read_with_header


@dataclass(frozen=True)
class Found:
    """A job that shards did: `name` for people, and what is wrong with what they left."""

    name: str
    job: Job
    problems: list[str]


def merge(run: Run, on_event: OnEvent | None = None) -> list[Result]:
    """Merges every job of which shards left all, and returns what came of each.

    Raises `ConfigError` where there is nothing to merge, `RunBusyError` while shards are at work, and, once what is
    whole is merged, `IntegrityError` that names what is wrong with the rest.
    """
    try:
        lock = run.lock()
        lock.__enter__()
    except RunBusyError as error:
        raise RunBusyError(f"Run {run.id} is in use: its shards, or another job, are still at work.") from error
    try:
        found = jobs(run)
        if not found:
            raise ConfigError(
                f"Run {run.id} has nothing to merge.", "Start shards with attribute RUN --shard 1/n or validate RUN …"
            )
        whole = [each for each in found if not each.problems]
        results = [execute(run, each.job, on_event=on_event, sharing=Merging()) for each in whole]
        broken = [each for each in found if each.problems]
        if broken:
            raise IntegrityError(
                " ".join(f"{each.name} cannot be merged: {'; '.join(each.problems)}." for each in broken),
                "Do the shards that are named again, after deleting the files that are named; then merge again.",
            )
        return results
    finally:
        lock.__exit__()


def jobs(run: Run) -> list[Found]:
    """What shards have begun of a run: sets of targets first, for a validation takes all that are scored."""
    dataset = dataset_registry.load(run.manifest().config.dataset)
    found = [_targets(run, path) for path in sorted((run.path / "scores").glob("plan-*.json"))]
    foreign = _without_plan(run)
    if foreign:
        found.append(Found("Parts of sets that were never begun", Replay(()), foreign))
    return found + [
        _retrainings(run, dataset, path) for path in sorted((run.path / "validation").glob(PLAN.format("*")))
    ]


# -- targets


def _targets(run: Run, path: Path) -> Found:
    plan, record = parts.plan_at(path), run.manifest()
    if not {"function", "targets", "mode"} <= plan.keys():
        raise IntegrityError(f"{path} is no plan of targets.", f"Delete {path}.")
    whole = TargetSet(plan["training"], plan["function"], tuple(plan["targets"]), plan["width"], record.window_start)
    job = Replay(whole.targets, whole.function, plan["mode"])
    name = f"The set of {len(whole.targets):,} targets ({whole.function}; {path.name})"
    if whole.training != record.training_digest or path.name != parts.plan_path(run, whole.key).name:
        return Found(name, job, [f"{path.name} is foreign: it is of another training, window or set"])
    problems, sound = [], []
    for each in parts.paths(run.path / "scores", whole):
        try:
            part = parts.read(each, whole)
            part.scores()
            theirs = part.sidecar["part"]["kind"]
            if theirs != plan["kind"]:
                problems.append(f"{each.name} was computed on {theirs}, and the set was begun on {plan['kind']}")
            sound.append(part)
        except IntegrityError as error:
            problems.append(_said(error))
    return Found(name, job, problems + _doubled(whole, sound) + _missing(whole, sound))


def _doubled(whole: TargetSet, sound: list[PartFile]) -> list[str]:
    """Parts that two files hold with other scores; those with the same are no harm."""
    problems = []
    for i, one in enumerate(sound):
        for other in sound[:i]:
            first, stop = max(one.part.first, other.part.first), min(one.part.stop, other.part.stop)
            if first < stop and not np.array_equal(_rows(one, first, stop), _rows(other, first, stop)):
                names = f"{other.path.name} and {one.path.name}"
                problems.append(f"{names} both hold targets {first + 1:,} to {stop:,}, with other scores")
    return problems


def _rows(file: PartFile, first: int, stop: int) -> np.ndarray:
    return file.scores()[first - file.part.first : stop - file.part.first]


def _missing(whole: TargetSet, sound: list[PartFile]) -> list[str]:
    there = {number for each in sound for number in whole.passes_of(each.part)}
    missing = [number for number in whole.passes if number not in there]
    divisions = sorted({int(each.shard.partition("/")[2]) for each in sound if each.shard})
    problems = []
    for part in whole.cut(missing, len(whole.targets)):
        numbers = set(whole.passes_of(part))
        by = [
            f"shard {i}/{n}"
            for n in divisions
            for i, share in enumerate(parts.shares(whole.passes, n), 1)
            if numbers & set(share)
        ]
        problems.append(
            f"targets {part.first + 1:,} to {part.stop:,} are missing" + (f" ({', '.join(by)})" if by else "")
        )
    return problems


def _without_plan(run: Run) -> list[str]:
    """Parts of sets whose plan is not there: brought from elsewhere."""
    folder = run.path / "scores"
    matches = ((path, parts.PART.fullmatch(path.name)) for path in sorted(folder.glob("part-*.json")))
    return [
        f"{path.name} is foreign: this run has no plan of its set"
        for path, match in matches
        if match is None or not parts.plan_path(run, match[1]).exists()
    ]


# -- retrainings


def _retrainings(run: Run, dataset: Dataset, path: Path) -> Found:
    plan, record, n = parts.plan_at(path), run.manifest(), len(dataset.train_labels)
    if not {"subsets", "drops", "seed", "repeats"} <= plan.keys():
        raise IntegrityError(f"{path} is no plan of retrainings.", f"Delete {path}.")
    job = Validate(plan["subsets"], tuple(plan["drops"]), plan["seed"])
    name = f"The validation with {job.subsets:,} subsets ({path.name})"
    if plan["training"] != record.training_digest:
        return Found(name, job, [f"{path.name} is foreign: it is of another training"])
    if path.name != plan_path(run, plan["training"], job, record.window_start).name:
        return Found(name, job, [f"{path.name} is foreign: it is of another window, or of other retrainings"])
    rows = set(train_rows(ref for refs in scored_targets(run).values() for ref in refs))
    batches = plan_digest(plan_for(record.config.recipe, n))
    problems, missing, by = [], [], set()
    changes = job.changes(n, plan["width"], plan["repeats"])
    for key, change in changes.items():
        file = run.path / "validation" / "retrained" / f"{key}.safetensors"
        if not file.exists():
            missing.append(key)
            continue
        try:
            kind = {"device": plan["kind"]}
            header = header_of(plan["training"], batches, change, plan["kind"], record.window_start)
            header = {k: v for k, v in header.items() if k not in kind}
            tensors, entries = read_with_header(file, header, "", UNNAMED)
            by.add(entries.get("shard", ""))
            if entries.get("device") != plan["kind"]:
                problems.append(
                    f"retraining {key} was computed on {entries.get('device')}, and the others on {plan['kind']}"
                )
            elif not rows <= set(tensors["train_rows"].tolist() if "train_rows" in tensors else ()):
                problems.append(f"retraining {key} lacks the training images that were made targets since")
        except IntegrityError as error:
            problems.append(_said(error))
    return Found(name, job, problems + _missing_keys(missing, list(changes), plan["width"], by))


def _missing_keys(missing: list[str], keys: list[str], width: int, by: set[str]) -> list[str]:
    """The retrainings that are missing, by the shards that should have done them."""
    from engine.jobs.retrained import groups_of

    if not missing:
        return []
    groups = groups_of(keys, width)
    divisions = sorted({int(shard.partition("/")[2]) for shard in by if shard})
    shards = [
        f"shard {i}/{n}"
        for n in divisions
        for i, share in enumerate(parts.shares(groups, n), 1)
        if {key for group in share for key in group} & set(missing)
    ]
    named = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if missing[5:] else "")
    return [f"{len(missing)} retrainings are missing: {named}" + (f" ({', '.join(shards)})" if shards else "")]


def _said(error: ReplayError) -> str:
    return error.what.rstrip(".")
