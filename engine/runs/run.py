"""Runs on disk: one folder each, that explains itself.

    outputs/<run_id>/
      config.json       what was asked for (`RunConfig`)
      manifest.json     what came of it (`Manifest`): status, unfinished jobs, digests, versions, device,
                        timings, checksums of the files below, and its own
      events.jsonl      the log, see `engine.runs.events`
      log.txt           tracebacks, for those who repair
      trajectory/       states, and what a killed run goes on from; the big part, deletable
      model/            final state (safetensors), logits of both splits float32 [N, classes] (npy),
                        digests.json: SHA-256 of the states that training went through
      scores/           <set>.npy float32 [K, N] and <set>.json, its sidecar
      exports/          what was written for other programs, where somebody asked for it; see `engine.jobs.export`
      validation/       what checks the scores, see `engine.analysis.trust`
      features/         penultimate features and maps, see `engine.analysis.features`; made again at any time
      duplicates/       images that are alike, see `engine.analysis.duplicates`; looked for again at any time
      notes.json        what a person says of it, see `engine.runs.notes`
      corrections.jsonl what a person decided on its labels, see `engine.runs.corrections`
      .lock             held (flock) by the process that works on the run, and freed by its death

A run's status is what its manifest says, except that a run which says that it is in progress
while nobody holds its lock was interrupted. This module needs no torch.
"""

import contextlib
import dataclasses
import datetime
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import engine
from engine import files
from engine.config import RunConfig, first_step, window_problem, window_share
from engine.errors import ConfigError, ReplayError, RunNotFoundError, StorageError
from engine.runs import storage as storages
from engine.runs.events import EventLog
from engine.runs.job import JobRecord
from engine.runs.lock import RunLock
from engine.runs.manifest import IN_PROGRESS, START_AGAIN, Manifest
from engine.runs.scores import ScoreSets
from engine.runs.storage import DELETED, FOLDERS, Storage

RUN_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")

STATUSES = (*IN_PROGRESS, "finished", "failed", "cancelled", "interrupted", "damaged", "half-deleted")


def outputs_root(given: str | Path | None = None) -> Path:
    """The folder of all runs: the argument, else REPLAY_OUTPUTS_DIR, else ./outputs. Made if absent,
    but not in read-only mode, where it need not be writable either."""
    root = Path(os.path.realpath(files.expanded(str(given or os.environ.get("REPLAY_OUTPUTS_DIR") or "outputs"))))
    if files.read_only():
        if not root.is_dir() or not os.access(root, os.R_OK | os.X_OK):
            raise StorageError(
                f"There is no folder of runs {root} to show, or it cannot be read.",
                "Set REPLAY_OUTPUTS_DIR (or --outputs) to a folder of runs.",
            )
        return root
    with files.disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    if not os.access(root, os.W_OK | os.X_OK):
        raise StorageError(
            f"{root} cannot be written.",
            "Make the outputs folder writable, or set REPLAY_OUTPUTS_DIR (or --outputs) to a folder that is.",
        )
    return root


def new_run_id(preset: str) -> str:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return f"{stamp}-{preset}-{secrets.token_hex(2)}"


class Run:
    """The folder of one run. Nothing is cached: every method reads the disk's present state."""

    def __init__(self, root: Path, run_id: str):
        if not isinstance(run_id, str) or not RUN_ID.fullmatch(run_id):
            raise ConfigError(
                f"{run_id!r} is no run id.",
                "A run id has small letters, digits and dashes only; `python -m engine list` names the runs.",
            )
        self.root, self.id = Path(root), run_id
        self.path = self.root / run_id

    @classmethod
    def open(cls, root: Path, run_id: str) -> "Run":
        """Raises `RunNotFoundError` where there is none."""
        run = cls(root, run_id)
        run._check_there()
        return run

    def _check_there(self) -> None:
        if self.path.is_symlink():
            raise RunNotFoundError(
                f"There is no run {self.id} in {self.root}: {self.path} is a link, and links are not followed.",
                "Move the folder itself there, or set REPLAY_OUTPUTS_DIR (or --outputs) to the folder that it is in.",
            )
        if self.path.is_dir():
            return
        if self._is_half_deleted():
            raise RunNotFoundError(
                f"Run {self.id} is half-deleted: what is left of it is in {self.root / (DELETED + self.id)}.",
                "Delete it again in Runs and storage.",
            )
        raise RunNotFoundError(
            f"There is no run {self.id} in {self.root}.",
            "It may have been deleted; choose a run that Runs and storage shows.",
        )

    def _is_half_deleted(self) -> bool:
        return not self.path.exists() and (self.root / f"{DELETED}{self.id}").is_dir()

    @classmethod
    def create(cls, root: Path, config: RunConfig, run_id: str | None = None) -> "Run":
        """Makes the folder of a run that is queued for its training. It is there whole or not at all."""
        run = cls(root, run_id or new_run_id(config.preset))
        unfinished = run.root / f"{files.TEMPORARY}{run.id}"
        with files.disk_errors(run.path):
            if run.path.exists() or run.path.is_symlink():
                raise FileExistsError(17, "File exists", str(run.path))
            unfinished.mkdir()
        try:
            with files.disk_errors(unfinished):
                for folder in FOLDERS:
                    (unfinished / folder).mkdir()
            checksum = files.write_json(unfinished / "config.json", config.to_dict())
            training = {
                "targets": list(config.targets),
                "function": config.target_function,
                "mode": config.replay_mode,
            }
            manifest = Manifest(
                run_id=run.id,
                status_said="queued",
                created=datetime.datetime.now().astimezone().isoformat("T", "seconds"),
                dataset=config.dataset,
                model=config.model,
                jobs=(JobRecord("run", training),),
                files={"config.json": checksum},
            )
            files.write_json(unfinished / "manifest.json", manifest.to_json())
            with files.disk_errors(run.path):
                unfinished.rename(run.path)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        return run

    # -- what it says of itself

    def manifest(self) -> Manifest:
        """One consistent view of the run: read it once and pass it on. Raises `RunNotFoundError`, or
        `IntegrityError` where the manifest is damaged."""
        manifest = self._read()
        if manifest.status_said in IN_PROGRESS:
            if self.lock().is_held():
                return dataclasses.replace(manifest, held=True)
            # Read again: the worker may have finished between the two looks.
            return self._read()
        return manifest

    def _read(self) -> Manifest:
        self._check_there()
        path = self.path / "manifest.json"
        try:
            identity = files.settled_identity(path)
        except OSError:
            identity = None  # reading says what is wrong
        if identity is None:
            return _manifest(path)
        known = _known_manifest(path, *identity)
        return dataclasses.replace(known)  # without what was read through it: other files may have changed since

    def write_manifest(self, manifest: Manifest) -> None:
        files.write_json(self.path / "manifest.json", manifest.to_json())

    def update_manifest(self, **changes) -> Manifest:
        """Changes fields of the manifest, for a caller who holds the run."""
        manifest = dataclasses.replace(self.manifest(), **changes, written_by=engine.__version__)
        self.write_manifest(manifest)
        return manifest

    def add_files(self, checksums: Mapping[str, str]) -> None:
        """Records files by their path inside the run, with their SHA-256."""
        self.update_manifest(files={**self.manifest().files, **checksums})

    @property
    def status(self) -> str:
        """Of `STATUSES`."""
        try:
            return self.manifest().status
        except ReplayError:
            return "half-deleted" if self._is_half_deleted() else "damaged"

    @property
    def events_log(self) -> EventLog:
        return EventLog(self.path / "events.jsonl", self._name_in_log)

    @cached_property
    def _name_in_log(self) -> str:
        """The id that the run was made with: its folder may have been renamed since."""
        try:
            return self.manifest().run_id
        except ReplayError:
            return self.id

    def events(self, offset: int = 0) -> tuple[list[dict], int]:
        return self.events_log.read(offset)

    def scores(self) -> ScoreSets:
        """As the disk has them now; of a manifest that was read before, take its `score_sets`."""
        return self.manifest().score_sets

    def storage(self) -> Storage:
        return Storage(self)

    def lock(self) -> RunLock:
        """`with run.lock():` holds the run for this thread; the system lets go of it when the process dies."""
        return RunLock(self.path, self.id)

    def totals(self) -> dict[str, Any]:
        """The fields of the manifest that a list of runs shows, measured now: to be recorded when a job ends."""
        scored = None
        with contextlib.suppress(ReplayError):  # a damaged score set of before is named where it is read
            scored = len(self.scores().targets())
        return {"sizes": self.storage().sizes(), "targets_scored": scored}


def _manifest(path: Path) -> Manifest:
    # Schema 2 may hold a job that asks to leave out NaN of the images; every other field is finite, see `Manifest`.
    return Manifest.from_json(files.read_json(path, START_AGAIN, finite=False), path)


@lru_cache(maxsize=4096)
def _known_manifest(path: Path, *identity: int) -> Manifest:
    return _manifest(path)


def list_runs(root: Path) -> list[Run]:
    """All runs, newest first; half-deleted ones too, after an attempt to finish their deletion. Folders whose names
    are no run ids, and links, are left alone: `passed_over` names them."""
    names, _ = _entries(root)
    half = _half_deleted(root)
    return [Run(root, name) for name in sorted({*names, *half}, reverse=True)]


def _half_deleted(root: Path) -> dict[str, str]:
    """Ids of the runs whose deletion stopped half-way and cannot be finished now, with the reason."""
    if files.read_only():
        return {run_id: f"Run {run_id} is half-deleted." for run_id, _ in storages.half_deleted(root, RUN_ID)}
    return storages.sweep(root, RUN_ID)


def _entries(root: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """The names of the runs, and what else looks like one, with the reason why it is none."""
    names, others = [], []
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink():
                    others.append((entry.name, "it is a link, and links are not followed"))
                elif entry.is_dir():
                    if RUN_ID.fullmatch(entry.name):
                        names.append(entry.name)
                    else:
                        others.append((entry.name, "its name is no run id: small letters, digits and dashes only"))
    except (FileNotFoundError, NotADirectoryError):
        raise StorageError(
            f"The folder of all runs, {root}, is gone.", "Make it again, or mount its disk, and reload."
        ) from None
    return names, sorted(others)


def passed_over(root: Path) -> list[tuple[str, str]]:
    """Folders and links among the runs that are not shown, each with the reason."""
    return _entries(root)[1]


@dataclass(frozen=True)
class Summary:
    """What a list shows of a run, from its manifest and configuration: no sidecar is read, no file is counted."""

    id: str
    status: str  # of `STATUSES`
    remark: str = ""  # why it cannot be opened; "" of a sound run
    name: str = ""  # that a person gave it (`engine.runs.notes`); "" where it has none, or where nobody looked
    created: str = ""  # ISO 8601
    dataset: str = ""
    model: str = ""
    seed: int | None = None
    window: str = ""  # such as «last 50 %»: the part of training that its scores are the effect of; "" for all of it
    trained: bool = False
    resumable: bool = False
    scored: bool = False
    data_fingerprint: str | None = None
    kept_mode: str | None = None
    test_accuracy: float | None = None
    sizes: Mapping[str, int] | None = None  # bytes by part at the end of the last job; None: not recorded
    targets_scored: int | None = None  # None: not recorded


def summary(run: Run) -> Summary:
    """Of one run; a damaged one is summed up too, with its reason."""
    try:
        return _sum_up(run, run.manifest())
    except ReplayError as error:
        return Summary(run.id, "half-deleted" if run._is_half_deleted() else "damaged", error.what)


def _sum_up(run: Run, manifest: Manifest) -> Summary:
    dataset, model = manifest.dataset, manifest.model
    if not dataset:  # of a run made before 0.2.0
        dataset, model = manifest.config.dataset, manifest.config.model
    return Summary(
        run.id,
        manifest.status,
        created=manifest.created,
        dataset=dataset,
        model=model,
        seed=_seed(run.path / "config.json", manifest.files.get("config.json")),
        window=_window(run.path / "config.json", manifest),
        trained=manifest.trained,
        resumable=manifest.resumable,
        scored=manifest.scored is True,
        data_fingerprint=manifest.data_fingerprint,
        kept_mode=manifest.kept_mode,
        test_accuracy=manifest.test_accuracy,
        sizes=manifest.sizes,
        targets_scored=manifest.targets_scored,
    )


def _glance(run: Run) -> Summary:
    """As `summary`, of a folder that a look has just found: nothing is read where its manifest is as it was."""
    try:
        identity = files.settled_identity(f"{run.path}/manifest.json")
        known = _known_summary(str(run.root), run.id, *identity) if identity else None
    except (OSError, ReplayError):
        known = None  # `summary` says what is wrong
    return known or summary(run)


@lru_cache(maxsize=4096)
def _known_summary(root: str, run_id: str, *identity: int) -> Summary | None:
    """None where more than the manifest counts: who holds a run that is worked on, a configuration to be read again."""
    run = Run(Path(root), run_id)
    manifest = run._read()
    known = None if manifest.status_said in IN_PROGRESS else _sum_up(run, manifest)
    return known if known and known.seed is not None else None


def _seed(path: Path, sha256: str | None) -> int | None:
    """Of the recipe; None where the configuration cannot be read, which whoever opens the run is told."""
    try:
        return _known_seed(path, sha256)
    except (ReplayError, TypeError, LookupError):
        return None


def _window(path: Path, manifest: Manifest) -> str:
    """Of a run whose steps are known; "" where its configuration cannot be read."""
    try:
        window = _known_window(path, manifest.files.get("config.json"))
    except (ReplayError, TypeError, LookupError):
        return ""
    return window_share(first_step(window, manifest.steps), manifest.steps) if window and manifest.steps else ""


@lru_cache(maxsize=4096)
def _known_window(path: Path, sha256: str | None) -> float:
    window = files.read_json(path, "", sha256)["window"]  # older runs have none
    return 0.0 if window_problem(window) else window


@lru_cache(maxsize=4096)
def _known_seed(path: Path, sha256: str | None) -> int | None:
    """By the checksum that the manifest has: a configuration is written once."""
    seed = files.read_json(path, "", sha256)["recipe"]["seed"]
    return seed if type(seed) is int else None


def summaries(root: Path) -> list[Summary]:
    """Of all runs, newest first."""
    names, _ = _entries(root)
    half = _half_deleted(root)
    found = {name: _glance(Run(root, name)) for name in names}
    found |= {name: Summary(name, "half-deleted", reason) for name, reason in half.items() if name not in found}
    return [found[name] for name in sorted(found, reverse=True)]


def sweep(root: Path) -> None:
    """Finishes the deletions that a killed process had begun."""
    files.check_writable(root)
    storages.sweep(root, RUN_ID)
