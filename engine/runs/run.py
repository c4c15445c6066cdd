"""Runs on disk: one folder each, that explains itself.

    outputs/<run_id>/
      config.json       what was asked for (`RunConfig`)
      manifest.json     what came of it: status, the job in hand, digests, versions, device,
                        timings, checksums of the files below, and its own
      events.jsonl      the log, see `engine.events`
      log.txt           tracebacks, for those who repair
      trajectory/       states, and what a killed run goes on from; the big part, deletable
      model/            final state (safetensors), logits of both splits float32 [N, classes] (npy),
                        digests.json: SHA-256 of the states that training went through
      scores/           <set>.npy float32 [K, N] and <set>.json, its sidecar
      validation/       what checks the scores, see `engine.trust`
      .lock             held (flock) by the process that works on the run, and freed by its death

A run's status is what its manifest says, except that a run which says that it is in progress
while nobody holds its lock was interrupted. This module needs no torch.
"""

import contextlib
import datetime
import fcntl
import os
import re
import secrets
import shutil
from pathlib import Path

import numpy as np

from engine import files
from engine.config import REPLAY_MODES, RunConfig, from_dict
from engine.errors import ConfigError, IntegrityError, ReplayError, RunBusyError, RunNotFoundError, StorageError
from engine.runs.events import EventLog
from engine.runs.scores import TargetRef

SCHEMA = 2

RUN_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")

FOLDERS = ("trajectory", "scores", "validation", "model")

LOGS = ("events.jsonl", "log.txt")

PARTS = (*FOLDERS, "logs", "other")  # what `sizes` tells apart

CLEANABLE = ("trajectory", "scores", "validation", "logs")

IN_PROGRESS = ("queued", "training", "replaying", "rebuilding", "validating")

STATUSES = (*IN_PROGRESS, "finished", "failed", "cancelled", "interrupted", "damaged")

DELETED = ".deleted-"  # a folder on its way out

START_AGAIN = "Delete the run in Runs and storage and start it again."


def outputs_root(given: str | Path | None = None) -> Path:
    """The folder of all runs: the argument, else REPLAY_OUTPUTS_DIR, else ./outputs. Made if absent,
    but not in read-only mode, where it need not be writable either."""
    root = Path(given or os.environ.get("REPLAY_OUTPUTS_DIR") or "outputs").expanduser().resolve()
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
    """The folder of one run. Nothing is cached: every property reads the disk's present state."""

    def __init__(self, root: Path, run_id: str):
        if not isinstance(run_id, str) or not RUN_ID.fullmatch(run_id):
            raise ConfigError(
                f"{run_id!r} is no run id.",
                "A run id has small letters, digits and dashes only; `python -m engine list` names the runs.",
            )
        self.root, self.id = Path(root), run_id
        self.path = self.root / run_id
        self.events_log = EventLog(self.path / "events.jsonl")

    @classmethod
    def open(cls, root: Path, run_id: str) -> "Run":
        run = cls(root, run_id)
        run._check_there()
        return run

    def _check_there(self) -> None:
        if self.path.is_symlink() or not self.path.is_dir():
            raise RunNotFoundError(
                f"There is no run {self.id} in {self.root}.",
                "It may have been deleted; choose a run that Runs and storage shows.",
            )

    @classmethod
    def create(cls, root: Path, config: RunConfig, run_id: str | None = None) -> "Run":
        run = cls(root, run_id or new_run_id(config.preset))
        with files.disk_errors(run.path):
            run.path.mkdir()
            for folder in FOLDERS:
                (run.path / folder).mkdir()
        checksum = files.write_json(run.path / "config.json", config.to_dict())
        job = {
            "kind": "run",
            "targets": list(config.targets),
            "function": config.target_function,
            "mode": config.replay_mode,
        }
        run.write_manifest(
            {
                "schema": SCHEMA,
                "run_id": run.id,
                "status": "queued",
                "created": datetime.datetime.now().astimezone().isoformat("T", "seconds"),
                "jobs": [job],
                "files": {"config.json": checksum},
            }
        )
        return run

    # -- what it says of itself

    @property
    def config(self) -> RunConfig:
        path = self.path / "config.json"
        remedy = "Restore it from a copy, or delete the run and start it again."
        return from_dict(files.read_json(path, remedy, self.manifest["files"].get("config.json")), str(path))

    @property
    def manifest(self) -> dict:
        self._check_there()
        path = self.path / "manifest.json"
        manifest = files.read_json(path, START_AGAIN)
        if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
            raise IntegrityError(
                f"{path} is damaged, or not of schema {SCHEMA}.",
                "Open the run with the version that wrote it, or delete it.",
            )
        checksum = manifest.pop("checksum", None)
        if checksum != files.json_digest(manifest):
            raise IntegrityError(f"{path} has changed since it was written.", START_AGAIN)
        return manifest

    def write_manifest(self, manifest: dict) -> None:
        files.write_json(self.path / "manifest.json", {**manifest, "checksum": files.json_digest(manifest)})

    def update_manifest(self, **fields) -> dict:
        manifest = {**self.manifest, **fields}
        self.write_manifest(manifest)
        return manifest

    def add_files(self, checksums: dict[str, str]) -> None:
        """Records files by their path inside the run, with their SHA-256."""
        self.update_manifest(files={**self.manifest["files"], **checksums})

    @property
    def status(self) -> str:
        try:
            said = self.manifest["status"]
        except ReplayError:
            return "damaged"
        if said in IN_PROGRESS and not self.is_locked():
            # Read again: the worker may have finished between the two looks.
            said = self.manifest["status"]
            return "interrupted" if said in IN_PROGRESS else said
        return said

    def events(self, offset: int = 0) -> tuple[list[dict], int]:
        return self.events_log.read(offset)

    # -- what is to be done with it

    @property
    def resumable(self) -> bool:
        """Whether there are unfinished jobs (`engine.jobs.registry.unfinished`), and nobody works on them."""
        if self.status in (*IN_PROGRESS, "damaged"):
            return False
        manifest = self.manifest
        return bool(manifest.get("jobs") or manifest.get("job"))

    @property
    def kept(self) -> str | None:
        """The mode, disk or recompute, that the trajectory on disk serves as it is."""
        return self.manifest.get("trajectory", {}).get("kept")

    def modes(self) -> dict[str, bool]:
        """For each replay mode, whether a replay can begin at once; else it first trains again."""
        kept = self.kept
        return {"memory": kept == "disk", "disk": kept == "disk", "recompute": kept == "recompute"}

    def mode_for(self, mode: str | None) -> str:
        """The mode given, or the one that needs nothing first; `ConfigError` where none does."""
        if mode is None and self.kept is None:
            raise ConfigError(
                f"Run {self.id} keeps no trajectory (it was replayed in memory mode, or its checkpoints were deleted).",
                "Rebuild its checkpoints, or name a mode: memory, disk and recompute all "
                "train once more, to the same states, and then replay.",
            )
        if mode is not None and mode not in REPLAY_MODES:
            raise ConfigError(f"There is no replay mode «{mode}».", f"Choose one of {', '.join(REPLAY_MODES)}.")
        return mode or self.kept

    # -- who works on it

    def is_locked(self) -> bool:
        try:
            handle = os.open(self.path / ".lock", os.O_RDONLY)
        except OSError:  # none was made yet; one that cannot be read is named by `acquire`
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            return True
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def locked(self):
        """Holds the run for this thread; the system lets go of it when the process dies."""
        lock = self.acquire()
        try:
            yield
        finally:
            os.close(lock)

    def acquire(self) -> int:
        with files.disk_errors(self.path):
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise RunBusyError(
                f"Run {self.id} is in use by a job in progress.", "Wait until it has finished, or cancel it."
            ) from None
        return handle

    # -- scores

    def score_sets(self) -> list[dict]:
        """The sidecars of all score sets, oldest first, each with its name under `name`."""
        recorded = self.manifest["files"]
        names = [Path(f).stem for f in recorded if f.startswith("scores/") and f.endswith(".json")]
        remedy = f"Delete the scores of run {self.id} and attribute the targets again."
        sets = []
        for name in names:
            path = self.path / "scores" / f"{name}.json"
            if not path.is_file() or files.sha256_of(path) != recorded[f"scores/{name}.json"]:
                raise IntegrityError(f"{path} is missing or has changed since it was written.", remedy)
            sets.append({"name": name, **files.read_json(path, remedy)})
        return sets

    def targets(self) -> list[TargetRef]:
        """All that have scores; of a target scored twice, the newest."""
        found = [
            TargetRef(t["name"], s["target_function"], s["name"], row)
            for s in self.score_sets()
            for row, t in enumerate(s["targets"])
        ]
        return list({t.key: t for t in found}.values())

    def target(self, key: str) -> TargetRef:
        found = {t.key: t for t in self.targets()}
        if key not in found:
            raise ConfigError(
                f"Run {self.id} has no scores for the target «{key}».", f"It has {', '.join(found) or 'none'}."
            )
        return found[key]

    def scores(self, score_set: str) -> np.ndarray:
        """float32 [K, N], memory-mapped, verified against the checksum written with it."""
        relative = f"scores/{score_set}.npy"
        recorded = self.manifest["files"]
        remedy = f"Delete the scores of run {self.id} and attribute the targets again."
        if relative not in recorded:
            raise IntegrityError(f"Run {self.id} has no score set {score_set}.", remedy)
        return files.read_npy(self.path / relative, recorded[relative], remedy)

    def test_logits(self) -> np.ndarray:
        """float32 [N_test, classes] of the final model in evaluation mode."""
        return self._logits("test")

    def train_logits(self) -> np.ndarray:
        """float32 [N, classes] of the final model in evaluation mode, on its own training images."""
        return self._logits("train")

    def _logits(self, split: str) -> np.ndarray:
        relative = f"model/{split}_logits.npy"
        return files.read_npy(
            self.path / relative, self.manifest["files"].get(relative), f"Delete run {self.id} and start it again."
        )

    # -- disk

    def sizes(self) -> dict[str, int]:
        """Bytes by part, in the order of `PARTS`."""
        sizes = {folder: files.size_of(self.path / folder) for folder in FOLDERS}
        sizes["logs"] = sum(files.size_of(self.path / name) for name in LOGS)
        return {**sizes, "other": max(0, files.size_of(self.path) - sum(sizes.values()))}

    def clean(self, parts: tuple[str, ...], dry_run: bool = False) -> int:
        """Deletes the content of some parts and returns the bytes freed (or to be freed)."""
        for part in parts:
            if part not in CLEANABLE:
                raise ConfigError(f"«{part}» cannot be cleaned.", f"Choose of {', '.join(CLEANABLE)}.")
        if dry_run:
            return sum(self.sizes()[part] for part in parts)
        with self.locked():
            return self.clean_held(parts)

    def clean_held(self, parts: tuple[str, ...]) -> int:
        """`clean`, for a caller who holds the run."""
        for part in parts:
            if (self.path / part).is_symlink():
                raise StorageError(f"{self.path / part} is a link, and links are not followed.", "Remove it by hand.")
        files.check_writable(self.path)
        sizes = self.sizes()
        manifest = self.manifest
        kept = {f: sha for f, sha in manifest["files"].items() if f.split("/")[0] not in parts}
        manifest = {**manifest, "files": kept}
        if "trajectory" in parts and "trajectory" in manifest:
            manifest["trajectory"] = {**manifest["trajectory"], "kept": None}
        if "scores" in parts:
            manifest["scored"] = False
        self.write_manifest(manifest)
        for part in parts:
            if part == "logs":
                for name in LOGS:
                    (self.path / name).unlink(missing_ok=True)
            else:
                shutil.rmtree(self.path / part, ignore_errors=True)
                (self.path / part).mkdir(exist_ok=True)
        freed = sum(sizes[part] for part in parts)
        self.events_log.append("cleaned", parts=list(parts), bytes=freed)
        return freed

    def delete(self, dry_run: bool = False) -> int:
        """Deletes the whole folder and returns the bytes freed (or to be freed)."""
        if self.path.is_symlink() or self.path.parent != self.root:
            raise StorageError(f"{self.path} is not a run's folder.", "Remove it by hand.")
        bytes_freed = files.size_of(self.path)
        if dry_run:
            return bytes_freed
        with self.locked(), files.disk_errors(self.path):
            # Out of sight first, so that no page meets a half-deleted run.
            doomed = self.root / f"{DELETED}{self.id}"
            self.path.rename(doomed)
            shutil.rmtree(doomed)
        return bytes_freed


def list_runs(root: Path) -> list[Run]:
    """All runs, newest first. Folders whose names are no run ids are left alone."""
    if not root.is_dir():
        raise StorageError(f"The folder of all runs, {root}, is gone.", "Make it again, or mount its disk, and reload.")
    names = [p.name for p in root.iterdir() if RUN_ID.fullmatch(p.name) and p.is_dir() and not p.is_symlink()]
    return [Run(root, name) for name in sorted(names, reverse=True)]


def sweep(root: Path) -> None:
    """Finishes the deletions that a killed process had begun."""
    files.check_writable(root)
    for path in root.glob(f"{DELETED}*"):
        if RUN_ID.fullmatch(path.name.removeprefix(DELETED)) and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
