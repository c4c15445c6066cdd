"""The kinds of jobs by name, and a run's unfinished ones. No torch.

`JOBS` is open: `JOBS[MyJob.kind] = MyJob` makes a kind known to the queue, the command line and resumed runs.
"""

import dataclasses
from typing import Any, get_args, get_origin, get_type_hints

from engine.errors import ConfigError, ReplayError
from engine.jobs.curvature import Curvature
from engine.jobs.duplicates import FindDuplicates
from engine.jobs.export import Export
from engine.jobs.features import Features
from engine.jobs.gradient_norms import GradientNorms
from engine.jobs.job import Job
from engine.jobs.rebuild import Rebuild
from engine.jobs.removal import Removal
from engine.jobs.replay import Replay
from engine.jobs.self_influence import SelfInfluence
from engine.jobs.smoothness import Smoothness
from engine.jobs.train import TrainAndReplay
from engine.jobs.umap import Umap
from engine.jobs.validation import Validate
from engine.jobs.what_if import WhatIf
from engine.runs.job import JobRecord
from engine.runs.manifest import Manifest
from engine.runs.run import Run

KINDS = (
    *(TrainAndReplay, Replay, Rebuild, Validate, WhatIf, Smoothness, Curvature, Removal, GradientNorms),
    *(SelfInfluence, Features, Umap, FindDuplicates, Export),
)
JOBS: dict[str, type[Job]] = {job.kind: job for job in KINDS}


def kind_named(kind: str) -> type[Job]:
    """Raises `ConfigError` for a kind that is not known."""
    if kind not in JOBS:
        raise ConfigError(
            f"«{kind}» is no kind of job.",
            f"The kinds are {', '.join(JOBS)}; a job of another kind belongs to the version that recorded it.",
        )
    return JOBS[kind]


def from_record(record: JobRecord) -> Job:
    """The job that `Job.record` wrote."""
    cls = kind_named(record.kind)
    names = {f.name for f in dataclasses.fields(cls)}
    needed = {f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING}
    odd = (record.fields.keys() - names) | (needed - record.fields.keys())
    if odd:
        raise ConfigError(
            f"The job «{cls.kind}» has unknown or missing fields: {', '.join(sorted(odd))}.",
            "Discard it, or resume the run with the version that recorded it.",
        )
    job = cls(**{name: _frozen(value) for name, value in record.fields.items()})
    for name, kind in get_type_hints(cls).items():
        if name in names and not _is(getattr(job, name), kind):
            raise ConfigError(
                f"The job «{cls.kind}» has «{str(record.fields[name]):.60}» for its field {name}.",
                "Discard it, or resume the run with the version that recorded it.",
            )
    return job


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of the type of a job's field: a number, a text, or a tuple of such."""
    if (of := get_origin(kind)) is not None:
        each, *more = get_args(kind)
        if more == [...]:
            return isinstance(value, of) and all(_is(v, each) for v in value)
        return isinstance(value, of) and len(value) == 1 + len(more) and all(map(_is, value, (each, *more)))
    if kind is float:
        return type(value) in (int, float)
    return not isinstance(kind, type) or type(value) is kind


def _frozen(value):
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def records(manifest: Manifest) -> list[JobRecord]:
    """The records of a run's unfinished jobs, oldest first, with all their fields."""
    return [_as_recorded_now(record) for record in manifest.jobs]


def _as_recorded_now(record: JobRecord) -> JobRecord:
    try:
        return from_record(record).record()
    except ReplayError:  # of another version: it stays as it is, and says so when its turn comes
        return record


def unfinished(run: Run) -> tuple[Job, ...]:
    """The run's unfinished jobs, oldest first. Raises `ConfigError` where one is of a kind that is not known."""
    return tuple(from_record(record) for record in records(run.manifest()))
