"""Prepared data sets: memory-mapped arrays in the data folder."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine import files
from engine.datasets.base import ARRAYS
from engine.errors import IntegrityError, ReadOnlyError, StorageError

logger = logging.getLogger(__name__)


def data_folder() -> Path:
    return Path(os.environ.get("REPLAY_DATA_DIR", Path(__file__).parents[2] / "data"))


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
        kept = files.read_json(folder / "prepared.json", "")
        if kept["digest"] != digest:
            return None
        return {key: np.asarray(files.read_npy(folder / f"{key}.npy", str(kept["sha256"][key]), "")) for key in ARRAYS}
    except (IntegrityError, KeyError, TypeError):
        return None
