"""Prepared data sets: memory-mapped arrays in the data folder; and how anything is written there."""

import contextlib
import fcntl
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from engine import files
from engine.datasets.base import ARRAYS
from engine.errors import ConfigError, IntegrityError, ReadOnlyError, StorageError

logger = logging.getLogger(__name__)

CHECKOUT = Path(__file__).parents[2]


def data_folder() -> Path:
    """Where data sets are looked for, and prepared: REPLAY_DATA_DIR; else ./data where the working directory is a
    checkout of this project; else a folder of the user's, never one beside installed code.

    Raises `ConfigError` where the user has no home folder.
    """
    try:
        if named := os.environ.get("REPLAY_DATA_DIR"):
            return Path(named).expanduser()
        if (CHECKOUT / "pyproject.toml").is_file() and Path.cwd() == CHECKOUT:
            return CHECKOUT / "data"
        base = Path(os.environ.get("XDG_DATA_HOME", ""))  # to be ignored unless absolute, says its specification
        return (base if base.is_absolute() else Path.home() / ".local" / "share") / "replay-explorer"
    except (RuntimeError, OSError) as error:
        raise ConfigError(f"There is no folder for data ({error}).", "Set REPLAY_DATA_DIR to one.") from None


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """`files.disk_errors`, with the remedy for the folder of data."""
    try:
        with files.disk_errors(path):
            yield
    except StorageError as error:
        raise StorageError(
            error.what, "Free space, or set REPLAY_DATA_DIR to a folder that can be written.", passing=error.passing
        ) from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Waits until no other process or thread makes or deletes this folder, which need not be there."""
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder.parent / f".lock-{folder.name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with disk_errors(folder):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """For who holds its lock: a temporary folder that takes `folder`'s place once it is filled, and is deleted where
    filling it fails. What killed processes left of theirs goes first."""
    parent = folder.parent
    with disk_errors(folder):
        for left in parent.glob(f"{files.TEMPORARY}{folder.name}-*"):
            files.remove_inside(parent, left)
        files.sweep(parent, recursive=False)
    temporary = parent / f"{files.TEMPORARY}{folder.name}-{secrets.token_hex(4)}"
    with files.new_folder(temporary):
        yield temporary
        with disk_errors(folder):
            remove(folder)
            os.rename(temporary, folder)


def remove(folder: Path) -> None:
    """Deletes a folder below the data folder, for who holds its lock. Out of sight first, so that nobody meets half of
    it. Maps that are open stay valid."""
    if not folder.exists() and not folder.is_symlink():
        return
    files.check_inside(data_folder(), folder)
    doomed = folder.with_name(f"{files.TEMPORARY}{folder.name}-{secrets.token_hex(4)}")
    folder.rename(doomed)
    files.remove_inside(doomed.parent, doomed)


def prepared(name: str, digest: str, read: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The four `ARRAYS` of a data set, as read-only memory maps of .npy files in the data folder.

    Made by `read` once for each `digest`, that of the files it reads; afterwards used only where prepared.json,
    written last, has that digest and the maps have their checksums. Where the data folder cannot be written,
    the arrays stay in RAM, and the log says so.
    """
    folder = data_folder() / "prepared" / name
    arrays = _mapped(folder, digest)
    if arrays is not None:
        return arrays
    with contextlib.suppress(ReadOnlyError):
        files.sweep(folder)  # what a killed process was writing
    arrays = read()
    try:
        with files.disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        checksums = {key: files.write_npy(folder / f"{key}.npy", array) for key, array in arrays.items()}
        files.write_json(folder / "prepared.json", {"digest": digest, "sha256": checksums})
    except (ReadOnlyError, StorageError) as error:
        logger.warning("%s So the images of %s are kept in memory.", error.what, name)
        return arrays
    return _mapped(folder, digest) or arrays


def _mapped(folder: Path, digest: str) -> dict[str, np.ndarray] | None:
    """None where they are not prepared yet, are of other sources, or are damaged: they are made anew."""
    try:
        record = files.read_json(folder / "prepared.json", "")
        if record["digest"] != digest:
            return None
        checksums = record["sha256"]
        return {key: np.asarray(files.read_npy(folder / f"{key}.npy", str(checksums[key]), "")) for key in ARRAYS}
    except (IntegrityError, KeyError, TypeError):
        return None
