"""The pictures of a training from Python, kept in its run's folder (`engine.library.saving` writes them):

    saved:RUN/data      train_images.npy  train_labels.npy  test_images.npy  test_labels.npy
                        data.json         title, classes, names of files, fingerprint, histogram, checksums of the
                                          arrays

so that a run that is moved, copied or sent has all that its pages show. The run's own configuration says `saved:data`,
which `engine.runs.manifest` reads as the folder where the run is now.
"""

from pathlib import Path
from typing import Any

import numpy as np

from engine import files
from engine.datasets.base import ARRAYS, Dataset
from engine.datasets.names import DatasetName, absolute, name_error
from engine.datasets.source import Progress
from engine.datasets.store import identity
from engine.errors import DataError, IntegrityError

RECORD = "data.json"

OWN = "saved:data"  # in a run's configuration: the pictures in its own folder

REMEDY = "Restore the run's folder from a copy, or save the training again."


def name_in(folder: Path) -> str:
    """The name of the data set in a folder."""
    return str(DatasetName("saved", str(absolute(str(folder)))))


def is_there(name: str) -> bool:
    """Whether there is such a folder of pictures."""
    return (absolute(DatasetName.parse(name).place) / RECORD).is_file()


def load(name: DatasetName, on_progress: Progress) -> Dataset:
    """As memory maps, each file compared with its checksum once a process."""
    if name.options:
        raise name_error(str(name), f"has no option {name.options[0][0]}: its pictures are taken as they are")
    folder = absolute(name.place)
    try:
        record = files.read_json(folder / RECORD, REMEDY)
        return _dataset(folder, record)
    except IntegrityError as error:
        raise DataError(error.what, error.remedy) from None
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / RECORD} does not describe a data set ({error}).", REMEDY) from None


def _names(names: Any, n: int) -> tuple[str, ...] | None:
    if names is not None and len(names) != n:
        raise ValueError(f"{len(names)} names of {n} files")
    return None if names is None else tuple(map(str, names))


def _dataset(folder: Path, record: dict[str, Any]) -> Dataset:
    sha256 = record["sha256"]
    paths = {key: folder / f"{key}.npy" for key in ARRAYS}
    mapped = {path: identity(path) for path in paths.values()}
    arrays: Any = {key: np.asarray(files.read_npy(path, str(sha256[path.name]), REMEDY)) for key, path in paths.items()}
    dataset = Dataset(
        name_in(folder),
        str(record["title"]),
        f"Pictures of a training from Python, in {folder}",
        tuple(map(str, record["classes"])),
        **arrays,
        train_names=_names(record["names"]["train"], len(arrays["train_labels"])),
        test_names=_names(record["names"]["test"], len(arrays["test_labels"])),
    )
    return dataset.with_known(str(record["fingerprint"]), np.array(record["histogram"]), mapped)
