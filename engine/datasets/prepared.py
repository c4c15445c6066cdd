"""Prepared data sets: memory-mapped arrays in the data folder."""

import contextlib
import logging
import os
from collections.abc import Callable
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
