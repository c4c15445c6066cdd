"""`manifest.json`: what came of a run, as one typed value that is read and verified once and passed on.

Schema 3. A file of an older schema is migrated when it is read, and written in this one at the next change; a
newer one is refused by the version that wrote it. New fields have defaults, so they need no new schema.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import engine
from engine import files, model_names
from engine.config import REPLAY_MODES, RunConfig, from_dict, window_phrase, window_start
from engine.datasets import saved
from engine.errors import ConfigError, IntegrityError
from engine.runs.fields import by_name, flag, number, of, optional, record, sha256, text, whole
from engine.runs.job import JobRecord, fields_of_schema_2
from engine.runs.scores import ScoreSets

SCHEMA = 3

OLDEST_SCHEMA = 2

IN_PROGRESS = ("queued", "training", "replaying", "rebuilding", "validating")

MOST_THREADS = 4096  # that a training may have had: a replay starts as many

GRADIENT_NORMS = "model/test_gradient_norms.npy"  # written by `engine.jobs.gradient_norms`

START_AGAIN = "Delete the run in Runs and storage and start it again."


@dataclass(frozen=True)
class TrajectoryRecord:
    """What is on disk of the states: the replay mode that they serve as they are (None: they serve none),
    steps from one full checkpoint to the next, and the steps of the training."""

    kept: str | None = None
    every: int = 0
    steps: int = 0


@dataclass(frozen=True)
class ErrorRecord:
    """How the last job ended, where it did not end well. `kind`: "failed" or "cancelled"."""

    what: str
    remedy: str = ""
    kind: str = "failed"


# -- what only a manifest's fields may hold


def _job(value: Any) -> JobRecord:
    text(of(dict, value)["kind"])
    json.dumps(value, allow_nan=False)  # a ValueError for what is not finite
    return JobRecord.from_json(value)


def _threads(value: Any) -> int:
    if not 1 <= of(int, value) <= MOST_THREADS:
        raise ValueError(f"{value!r:.60} is no number of threads")
    return value


def _files(value: Any) -> dict[str, str]:
    checksums = by_name(sha256)(value)
    for path in checksums:  # joined to the run's folder by readers: none may lead out of it
        if path.startswith("/") or ".." in path.split("/") or "\0" in path:
            raise ValueError(f"{path!r} is no path inside a run")
    return checksums


def _entry(reader: Callable, default: Any = dataclasses.MISSING, **more: Any) -> Any:
    return field(default=default, metadata={"read": reader}, **more)


def _mapping(reader: Callable) -> Any:
    return field(default_factory=dict, metadata={"read": by_name(reader)})


@dataclass(frozen=True)
class Manifest:
    """One consistent view of a run, as of the moment when its manifest was read.

    `folder` and `held` are no part of the file: where it was read, and whether anybody held the run's lock then.
    Configuration and score sets are read when they are first asked for, each once, and verified against the
    checksums recorded here.
    """

    run_id: str = _entry(text)
    status_said: str = _entry(text)  # of `engine.runs.run.STATUSES`; `status` knows of killed processes too
    created: str = _entry(text, "")  # ISO 8601, with the time zone
    written_by: str = _entry(text, "")  # the project's version that wrote this file; "" before 0.2.0
    dataset: str = _entry(text, "")  # as in the configuration; "" in runs made before 0.2.0
    model: str = _entry(text, "")
    jobs: tuple[JobRecord, ...] = _entry(lambda value: tuple(map(_job, of(list, value))), ())  # next one first
    error: ErrorRecord | None = _entry(optional(record(ErrorRecord, what=text, remedy=text, kind=text)), None)
    files: Mapping[str, str] = field(default_factory=dict, metadata={"read": _files})  # path inside the run: SHA-256
    # What the run was trained with; None until the training begins.
    training_digest: str | None = _entry(optional(text), None)
    data_fingerprint: str | None = _entry(optional(text), None)
    plan_sha256: str | None = _entry(optional(text), None)  # of the batch plan; None before 0.2.0
    rates_sha256: str | None = _entry(optional(text), None)  # of the learning rates; None before 0.2.0
    # Weighted means of augmented pixels (engine/trajectory/digests.py); None where they were not recorded.
    pixel_means: tuple[float, ...] | None = _entry(optional(lambda value: tuple(map(number, of(list, value)))), None)
    # SHA-256 of the files that decide the model beside this project's own code; None before there were such models.
    model_sources: Mapping[str, str] | None = _entry(optional(by_name(sha256)), None)
    versions: Mapping[str, str] = _mapping(text)  # of Python and the libraries
    device: str | None = _entry(optional(text), None)
    device_name: str | None = _entry(optional(text), None)  # the kind of GPU or CPU
    driver: str | None = _entry(optional(text), None)  # version of the GPU's driver; None on a CPU
    threads: int | None = _entry(optional(_threads), None)
    precision: str | None = _entry(optional(text), None)
    tf32: bool = _entry(flag, False)
    compiled: bool | None = _entry(optional(flag), None)  # whether the training's steps were; None before 0.3.0
    deterministic: str | None = _entry(optional(text), None)  # whose deterministic kernels: "cpu" or "cudnn"
    steps: int | None = _entry(optional(whole), None)
    parameters: int | None = _entry(optional(whole), None)
    buffers: int | None = _entry(optional(whole), None)
    # What came of it.
    trained: bool = _entry(flag, False)
    test_accuracy: float | None = _entry(optional(number), None)
    trajectory: TrajectoryRecord = _entry(
        record(TrajectoryRecord, kept=optional(text), every=whole, steps=whole), TrajectoryRecord()
    )
    scored: bool | None = _entry(optional(flag), None)  # None: no replay was finished; False: scores were deleted
    targets_per_pass: int | None = _entry(optional(whole), None)
    steps_recomputed: int | None = _entry(optional(whole), None)  # by the last replay
    timings: Mapping[str, float] = _mapping(number)  # seconds, by name
    peak_bytes: Mapping[str, int] = _mapping(whole)  # by memory: rss, gpu
    # At the end of the last job, so that a list of runs needs no look at their files; None before 0.2.0.
    sizes: Mapping[str, int] | None = _entry(optional(by_name(whole)), None)  # bytes, by `storage.PARTS`
    targets_scored: int | None = _entry(optional(whole), None)
    # Not in the file.
    folder: Path = field(default=Path(), compare=False, repr=False)
    held: bool = field(default=False, compare=False, repr=False)

    # -- the file

    @classmethod
    def from_json(cls, value: Any, path: Path) -> "Manifest":
        """Verifies, migrates and types what `path` holds; `IntegrityError` for what is no manifest."""
        schema = value.get("schema") if isinstance(value, dict) else None
        if type(schema) is not int or schema < OLDEST_SCHEMA:
            raise IntegrityError(
                f"{path} is damaged, or not of schema {OLDEST_SCHEMA} to {SCHEMA}.",
                "Open the run with the version that wrote it, or delete it.",
            )
        if schema > SCHEMA:
            writer = value.get("written_by")
            version = f"version {writer:.20}" if isinstance(writer, str) and writer else "a newer version"
            raise IntegrityError(
                f"{path} was written by {version} (schema {schema}); this is version {engine.__version__}, which "
                f"reads schema {OLDEST_SCHEMA} to {SCHEMA}.",
                f"Open the run with {version}, or delete it.",
            )
        values = {name: each for name, each in value.items() if name != "checksum"}
        if value.get("checksum") != files.json_digest(values):
            raise IntegrityError(f"{path} has changed since it was written.", START_AGAIN)
        if schema == 2:
            values = migrate_2_to_3(values)
        del values["schema"]
        values["status_said"] = values.pop("status", None)
        readers = {f.name: f.metadata["read"] for f in dataclasses.fields(cls) if f.metadata}
        try:
            if unknown := sorted(values.keys() - readers.keys()):
                raise ValueError(f"{', '.join(unknown)[:200]}: unknown to version {engine.__version__}")
            return cls(**{name: readers[name](each) for name, each in values.items()}, folder=path.parent)
        except (TypeError, ValueError, KeyError) as error:
            raise IntegrityError(f"{path} is no manifest of a run ({error}).", START_AGAIN) from None

    def to_json(self) -> dict:
        """What is written, with its own checksum."""
        values: dict[str, Any] = {"schema": SCHEMA}
        for entry in dataclasses.fields(self):
            if entry.metadata:
                each = getattr(self, entry.name)
                values["status" if entry.name == "status_said" else entry.name] = _as_json(each)
        values["written_by"] = engine.__version__
        return {**values, "checksum": files.json_digest(values)}

    # -- what it says

    @property
    def status(self) -> str:
        """Of `engine.runs.run.STATUSES`: one that says it is in progress while nobody held it was interrupted."""
        return "interrupted" if self.status_said in IN_PROGRESS and not self.held else self.status_said

    @property
    def in_progress(self) -> bool:
        return self.status in IN_PROGRESS

    @property
    def from_python(self) -> bool:
        """Whether it was trained in Python and saved: its model is known there alone."""
        return model_names.is_from_python(self.model)

    @property
    def method(self) -> str:
        """Whose scores these are, of a run of imported ones: no training and no model is behind it. "" of others."""
        return model_names.method_of(self.model)

    @property
    def has_model(self) -> bool:
        """Whether its model can be built here, so that it can be trained again."""
        return not model_names.is_elsewhere(self.model)

    def has_logits(self, split: str) -> bool:
        """Whether what the model says of a split's images is there: not in every run of imported scores, and of the
        training images not in runs of older versions."""
        return f"model/{split}_logits.npy" in self.files

    @property
    def job(self) -> JobRecord | None:
        """The job in hand, begun or not; None where all was done."""
        return self.jobs[0] if self.jobs else None

    @property
    def resumable(self) -> bool:
        return bool(self.jobs) and not self.in_progress

    @property
    def kept_mode(self) -> str | None:
        """The mode, disk or recompute, that the trajectory on disk serves as it is."""
        return self.trajectory.kept

    def modes(self) -> dict[str, bool]:
        """For each replay mode, whether a replay can begin at once; else it first trains again."""
        kept = self.kept_mode
        return {"memory": kept == "disk", "disk": kept == "disk", "recompute": kept == "recompute"}

    def mode_for(self, mode: str | None) -> str:
        """The mode given, or the one that needs nothing first; `ConfigError` where none does."""
        if mode is not None and mode not in REPLAY_MODES:
            raise ConfigError(f"There is no replay mode «{mode}».", f"Choose one of {', '.join(REPLAY_MODES)}.")
        if mode is None and self.kept_mode is None:
            raise ConfigError(
                f"Run {self.run_id} keeps no trajectory (it was replayed in memory mode, or its checkpoints were "
                "deleted).",
                "Rebuild its checkpoints, or name a mode: memory, disk and recompute all "
                "train once more, to the same states, and then replay.",
            )
        return mode or self.kept_mode or ""

    @property
    def window_start(self) -> int:
        """The first step, from 0, at which example weights count; 0 where that is the whole training."""
        return window_start(self.config, self.steps) if self.steps else 0

    @property
    def window_phrase(self) -> str:
        """What the run's scores are the effect of, in words; "" where it is the whole training."""
        return window_phrase(self.window_start, self.steps or 1)

    # -- what it leads to

    @cached_property
    def config(self) -> RunConfig:
        path = self.folder / "config.json"
        remedy = "Restore it from a copy, or delete the run and start it again."
        config = from_dict(files.read_json(path, remedy, self.files.get("config.json")), str(path))
        if config.dataset == saved.OWN:
            return config.replace(dataset=saved.name_in(self.folder / "data"))
        return config

    @cached_property
    def score_sets(self) -> ScoreSets:
        return ScoreSets(self.folder, self.run_id, self.files)

    def test_logits(self) -> np.ndarray:
        """float32 [N_test, classes] of the final model in evaluation mode."""
        return self._test_logits

    def train_logits(self) -> np.ndarray:
        """float32 [N, classes] of the final model in evaluation mode, on its own training images."""
        return self._train_logits

    def gradient_norms(self) -> np.ndarray | None:
        """float32 [N_test], ‖dℓ/dθ‖ of each test image's own loss at the end of training; None where nobody measured
        them."""
        return self._gradient_norms

    @cached_property
    def _gradient_norms(self) -> np.ndarray | None:
        if GRADIENT_NORMS not in self.files:
            return None
        remedy = "Measure the gradient norms again, on the page Test images."
        return files.read_npy(self.folder / GRADIENT_NORMS, self.files[GRADIENT_NORMS], remedy)

    @cached_property
    def _test_logits(self) -> np.ndarray:
        return self._logits("test")

    @cached_property
    def _train_logits(self) -> np.ndarray:
        return self._logits("train")

    def _logits(self, split: str) -> np.ndarray:
        relative = f"model/{split}_logits.npy"
        if self.method and not self.has_logits(split):
            raise ConfigError(
                f"Run {self.run_id} has scores of {self.method} without the model's logits of the {split} images.",
                f"Show them once more with --{split}-logits FILE (docs/viewer.md).",
            )
        remedy = f"Delete run {self.run_id} and start it again."
        return files.read_npy(self.folder / relative, self.files.get(relative), remedy)


def _as_json(value: Any) -> Any:
    if isinstance(value, JobRecord):
        return value.to_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, tuple):
        return [_as_json(each) for each in value]
    return dict(value) if isinstance(value, Mapping) else value


def migrate_2_to_3(values: Mapping[str, Any]) -> dict[str, Any]:
    """Schema 2 had one slot `job` for the job in hand, with all options of all kinds; schema 3 a list of jobs, each
    with the fields of its kind. Everything else kept its name."""
    job = values.get("job")
    jobs = [{"kind": job["kind"], **fields_of_schema_2(job)}] if job else []
    return {name: each for name, each in values.items() if name != "job"} | {"schema": 3, "jobs": jobs}
