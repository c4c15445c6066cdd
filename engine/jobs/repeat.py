"""Repeating a run with other seeds: one action that makes or completes several runs, and groups them. No torch.

A repetition differs from its run in the recipe's seed alone: the same data, model, targets and window, and the same
validation where the run has one, without the same random subsets, so that what is retrained of one training can be
held against the scores of the others (`engine.analysis.seeds`). Each is a run of its own, with its own folder, queue,
log and resumption; that they belong together stands in the notes of each (`engine.runs.notes.SeedGroup`).

A seed that was trained already, by hand or by an earlier repetition, is taken as it is, and only what it lacks is done.
So whatever a kill, a cancel or a full disk left undone, the same action goes on from there, and what is there can be
averaged before the rest is.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from engine import files
from engine.analysis import cost, seeds, trust
from engine.config import RANGES, RunConfig
from engine.errors import ConfigError, ReplayError, RunBusyError
from engine.jobs.job import Job, require_trained
from engine.jobs.registry import from_record, records
from engine.jobs.replay import Replay
from engine.jobs.train import TrainAndReplay
from engine.jobs.validation import Validate
from engine.runs import notes, uploads
from engine.runs.manifest import Manifest
from engine.runs.notes import SeedGroup
from engine.runs.run import Run, Summary, list_runs
from engine.targets import Target, UploadedImage

FEWEST, PROPOSED, MOST = 2, 4, 32  # seeds of a group

Asked = dict[str, list[Target]]  # targets by target function, in their order


@dataclass(frozen=True)
class Member:
    """One seed of a group: its run, None where it is to be made, and what is still to be done of it, in its order."""

    seed: int
    run: Run | None
    jobs: tuple[Job, ...] = ()
    busy: bool = False  # in progress: nothing is added to it now


@dataclass(frozen=True)
class Cost:
    """What is to be done, in all. `seconds` None: nothing was measured on the run."""

    trainings: int
    targets: int  # that are replayed
    retrainings: int
    seconds: float | None
    bytes: int  # that the runs to be made will keep

    def in_words(self) -> str:
        """Such as «3 trainings, replayed for 24 targets, and 96 retrainings: about 12 min»."""
        parts = [
            _count(self.trainings, "training"),
            f"{_count(self.targets, 'target')} to replay" if self.targets else "",
            _count(self.retrainings, "retraining"),
        ]
        time = "" if self.seconds is None else f": about {cost.in_words(self.seconds)}"
        return f"{', '.join(part for part in parts if part)}{time}"


@dataclass(frozen=True)
class Plan:
    """A group as it will be: `members` by seed, the run that is repeated first."""

    of: Run
    group: SeedGroup
    members: tuple[Member, ...]
    cost: Cost

    @property
    def open(self) -> tuple[Member, ...]:
        """Those of which something is to be done."""
        return tuple(member for member in self.members if member.jobs)


def plan(run: Run, count: int, validate: bool = True) -> Plan:
    """What repeating a run until there are `count` seeds of it takes; nothing is written.

    `validate`: whether the others are validated as the run is. Raises `ConfigError` for a run that is not trained, or
    was saved from Python, and for a number of seeds out of range.
    """
    if isinstance(count, bool) or not isinstance(count, int) or not FEWEST <= count <= MOST:
        raise ConfigError(
            f"A run can be repeated over {FEWEST} to {MOST} seeds, not {count}.",
            f"Choose {PROPOSED}: the run's own seed, and {PROPOSED - 1} others.",
            {"seeds": f"must be from {FEWEST} to {MOST}"},
        )
    require_trained(run)
    record = run.manifest()
    own, before = record.config.recipe.seed, notes.read(run).group
    there = _there(record, run, before)
    known = [seed for seed in (before.seeds if before else ()) if seed != own]
    numbers = list(dict.fromkeys([own, *known, *sorted(there), *_next(own, count)]))[: max(count, 1 + len(known))]
    asked, validations = _asked(record), _validations(record) if validate else ()
    members = [Member(own, run)]
    for seed in numbers[1:]:
        other = there.get(seed)
        if other is None:
            members.append(Member(seed, None, _jobs_of_new(record, asked, validations)))
        else:
            manifest = other.manifest()
            busy = manifest.in_progress
            members.append(Member(seed, other, () if busy else _lacking(manifest, asked, validations), busy))
    group = SeedGroup(before.name if before else run.id, tuple(numbers))
    return Plan(run, group, tuple(members), _cost(run, record, members))


def prepare(plan: Plan) -> tuple[str, ...]:
    """Makes the folders that are lacking, records what each run has still to do, and writes the group down. Returns the
    ids of the runs of which something is to be done, in the order of their seeds: `JobQueue.resume` queues each.

    A run that somebody works on stays as it is, and is taken up by the next repetition. Raises `StorageError`, after
    which what was made is there and can be resumed or deleted.
    """
    files.check_writable(plan.of.path)
    name = notes.read(plan.of).name
    ids = []
    for member in plan.members:
        run = member.run or Run.create(plan.of.root, repeated(plan.of.manifest(), member))
        notes.write_group(run, plan.group)
        if member.run is None and name:
            notes.write_name(run, f"{name[: notes.LONGEST_NAME - 20]}, seed {member.seed}")
        if member.jobs:
            _keep_uploads(plan.of, run, member.jobs)
            try:
                with run.lock():
                    _record(run, member.jobs)
            except RunBusyError:
                continue
            ids.append(run.id)
    return tuple(ids)


def repeated(record: Manifest, member: Member) -> RunConfig:
    """The configuration of a repetition: the run's, with another seed and the targets that it has by now. Where the run
    keeps no checkpoints, a repetition does not keep them either."""
    first = member.jobs[0]
    assert isinstance(first, TrainAndReplay)
    return record.config.replace(
        **{"recipe.seed": member.seed},
        targets=first.targets,
        target_function=first.function,
        clean_when_done=record.config.clean_when_done
        or (record.kept_mode is None and record.config.replay_mode != "memory"),
    )


def members(root, group: SeedGroup, runs: Iterable[Summary]) -> dict[int, Summary | None]:
    """The runs of a group as they stand, by seed; None where there is none (any more). The newest where several have a
    seed; the run that gave the group its name wins."""
    found: dict[int, Summary | None] = dict.fromkeys(group.seeds)
    for summary in runs:
        theirs = None if summary.remark else notes.group_of(Run(root, summary.id))
        if theirs is None or theirs.name != group.name or summary.seed not in found:
            continue
        if found[summary.seed] is None or summary.id == group.name:
            found[summary.seed] = summary
    return found


# -- what is there, and what is lacking


def _there(record: Manifest, run: Run, group: SeedGroup | None) -> dict[int, Run]:
    """Other trainings of the recipe on this disk, by seed: of the same group, else trained ones, else the newest."""
    found: dict[int, tuple[tuple[bool, bool], Run]] = {}
    for other in list_runs(run.root):
        if other.id == run.id:
            continue
        try:
            manifest = other.manifest()
            if not manifest.has_model or seeds.unlike(record, manifest):
                continue
            seed = manifest.config.recipe.seed
        except ReplayError:  # damaged: it is neither taken nor touched
            continue
        theirs = notes.group_of(other)
        rank = (group is not None and theirs is not None and theirs.name == group.name, manifest.trained)
        if seed != record.config.recipe.seed and (seed not in found or rank > found[seed][0]):
            found[seed] = rank, other
    return {seed: other for seed, (_, other) in found.items()}


def _next(own: int, count: int) -> Iterable[int]:
    """Seeds after the run's own, from 0 again behind the largest."""
    largest = int(RANGES["recipe.seed"].high)
    return ((own + i) % (largest + 1) for i in range(1, count))


def _asked(record: Manifest) -> Asked:
    """What the run is scored for, or was asked for where it has no scores: the targets of its own function first."""
    asked: Asked = {record.config.target_function: []}
    for ref in record.score_sets.targets():
        asked.setdefault(ref.function, []).append(ref.target)
    if not any(asked.values()):
        asked[record.config.target_function] = [Target.parse(text) for text in record.config.targets]
    return {function: targets for function, targets in asked.items() if targets}


def _validations(record: Manifest) -> tuple[Validate, ...]:
    """The validations that would give the run's reports."""
    by_plan: dict[tuple[int, int], set[float]] = {}
    for report in trust.sound(record, trust.LDS)[0]:
        by_plan.setdefault((report["subsets"], report["seed"]), set()).add(report["drop"])
    return tuple(Validate(subsets, tuple(sorted(drops)), seed) for (subsets, seed), drops in sorted(by_plan.items()))


def _jobs_of_new(record: Manifest, asked: Asked, validations: tuple[Validate, ...]) -> tuple[Job, ...]:
    """Training with the targets of one function, then what a training cannot begin with: uploaded images, which are
    kept with a run, and other functions."""
    mode = record.config.replay_mode
    function = next((f for f, targets in asked.items() if any(map(_of_data, targets))), record.config.target_function)
    texts = tuple(str(target) for target in asked.get(function, ()) if _of_data(target)) or record.config.targets
    rest = {f: [t for t in targets if f != function or not _of_data(t)] for f, targets in asked.items()}
    return (TrainAndReplay(texts, function, mode), *_replays(rest, mode), *validations)


def _of_data(target: Target) -> bool:
    return not isinstance(target, UploadedImage)


def _replays(asked: Asked, mode: str) -> list[Job]:
    """One a function; a target that holds what the model makes of it is replayed apart, for another model may make none
    of it, and then the others are explained all the same."""
    jobs: list[Job] = []
    for function, targets in asked.items():
        for apart in ([t for t in targets if not t.of_the_model], *([t] for t in targets if t.of_the_model)):
            if apart:
                jobs.append(Replay(tuple(map(str, apart)), function, mode))
    return jobs


def _lacking(other: Manifest, asked: Asked, validations: tuple[Validate, ...]) -> tuple[Job, ...]:
    """What a run that is there has still to do, in all: what it has not finished, and what the other one has beside."""
    recorded = records(other)
    known = {(ref.function, str(ref.target)) for ref in other.score_sets.targets()}
    for record in recorded:
        function = record.fields.get("function", "")
        known |= {(function, text) for text in record.fields.get("targets", ())}
    missing = {f: [t for t in targets if (f, str(t)) not in known] for f, targets in asked.items()}
    jobs = [*_replays(missing, other.kept_mode or other.config.replay_mode)]
    reports = trust.sound(other, trust.LDS)[0]
    for job in validations:
        if not jobs and all(_has(reports, job, drop, asked) for drop in job.drops):
            continue
        if job.record() not in recorded:
            jobs.append(job)
    return (*_unfinished(other), *jobs)


def _has(reports: list[dict], job: Validate, drop: float, asked: Asked) -> bool:
    """Whether a validation's report of each function is there, with all targets of the data set."""
    for function, targets in asked.items():
        wanted = {f"{target}.{function}" for target in targets if _of_data(target)}
        mine = [
            each
            for each in reports
            if (each["function"], each["drop"], each["seed"]) == (function, drop, job.seed)
            and each["subsets"] >= job.subsets
        ]
        if wanted and not any(wanted <= {target["key"] for target in each["targets"]} for each in mine):
            return False
    return True


def _unfinished(other: Manifest) -> tuple[Job, ...]:
    return tuple(from_record(record) for record in records(other))


def _record(run: Run, jobs: tuple[Job, ...]) -> None:
    """Behind what the run has to do already."""
    recorded = records(run.manifest())
    more = [job.record() for job in jobs if job.record() not in recorded]
    if more:
        run.update_manifest(jobs=(*recorded, *more))


def _keep_uploads(of: Run, run: Run, jobs: tuple[Job, ...]) -> None:
    """Uploaded images that are asked about are kept with the other run, too."""
    for job in jobs:
        for target in map(Target.parse, getattr(job, "targets", ())):
            if isinstance(target, UploadedImage):
                uploads.keep(run, uploads.read(of, target.image_id))


# -- what it costs


def _cost(run: Run, record: Manifest, members: Iterable[Member]) -> Cost:
    """By what the run that is repeated took."""
    trainings = targets = retrainings = made = 0
    for member in members:
        made += member.run is None
        for job in member.jobs:
            trainings += isinstance(job, TrainAndReplay) and (member.run is None or not member.run.manifest().trained)
            targets += len(job.targets) if isinstance(job, TrainAndReplay | Replay) else 0
            retrainings += (job.subsets * len(job.drops) + 1) if isinstance(job, Validate) else 0
    training, a_retraining = record.timings.get("train_seconds"), trust.retraining_seconds(record)
    replay = cost.replay_seconds(record, targets) if targets else 0.0
    seconds = None
    if training is not None and a_retraining is not None and replay is not None:
        seconds = trainings * training + replay + retrainings * a_retraining
    return Cost(trainings, targets, retrainings, seconds, made * sum(run.storage().sizes().values()))


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}" if n else ""
