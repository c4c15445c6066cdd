"""The kinds of jobs by name, and a run's unfinished ones. No torch.

`JOBS` is open: `JOBS[MyJob.kind] = MyJob` makes a kind known to the queue, the command line and resumed runs.
"""

import dataclasses

from engine.errors import ConfigError, ReplayError
from engine.jobs.job import Job
from engine.jobs.rebuild import Rebuild
from engine.jobs.replay import Replay
from engine.jobs.smoothness import Smoothness
from engine.jobs.train import TrainAndReplay
from engine.jobs.validation import Validate
from engine.jobs.what_if import WhatIf
from engine.runs.job import JobRecord
from engine.runs.manifest import Manifest
from engine.runs.run import Run

JOBS: dict[str, type[Job]] = {job.kind: job for job in (TrainAndReplay, Replay, Rebuild, Validate, WhatIf, Smoothness)}


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
    return cls(**{name: _frozen(value) for name, value in record.fields.items()})


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
