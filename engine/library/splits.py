"""One split of a data set, training or test, as people have it: pictures in the order of the scores, and their labels.

a name          of a data set that the app knows (docs/data.md): its training, or test, images, in the app's order
a folder        of class folders: all its images, by class and then by file name, as torchvision's ImageFolder
                orders them; of a folder with train and test, that part
a Dataset       of torch or torchvision, in its own order, before it is standardised; a DataLoader, its data set.
                Of an ImageFolder the files themselves are shown
(images, labels)  arrays, tensors, lists of Pillow's images, or names of files, and whole numbers
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils import data as torch_data

from engine.datasets import image_folder
from engine.datasets import registry as datasets
from engine.datasets.base import Dataset
from engine.datasets.names import absolute, printable
from engine.datasets.source import Progress, nothing
from engine.errors import ConfigError, DataError
from engine.library.inputs import given, labels_of

HOW = (
    "Give the name of a data set, a folder of class folders, a Dataset of torch, or (images, labels), in the order of "
    "the scores."
)


@dataclass(frozen=True, eq=False)
class Split:
    """`images` as `engine.library.pictures` takes them, labels int64 [N], and the classes' names where they are
    known. `files` are the images' names."""

    images: Any
    labels: np.ndarray
    classes: tuple[str, ...] | None = None
    files: Sequence[str] | None = None


def named(train: Any, test: Any) -> str | None:
    """The name of the one data set that is both splits, so that nothing is copied; None for anything else."""
    if not isinstance(train, str | os.PathLike) or not isinstance(test, str | os.PathLike | None):
        return None
    name = _name(os.fspath(train))
    if test is not None and _name(os.fspath(test)) != name:
        return None
    return name


def read(value: Any, split: str, on_progress: Progress = nothing) -> Split:
    """`split` is train or test. Raises `ConfigError` for what is no split, `DataError` for files that are none."""
    if isinstance(value, Dataset):
        return _of_known(value, split)
    if isinstance(value, str | os.PathLike):
        return _of_name(os.fspath(value), split, on_progress)
    if isinstance(value, torch_data.Dataset | torch_data.DataLoader):
        return _of_torch(value, split)
    if isinstance(value, tuple | list) and len(value) == 2:
        return _of_pair(value[0], value[1], split)
    raise ConfigError(f"`{split}` is a {type(value).__name__}.", HOW)


def _name(text: str) -> str:
    """A path as the name that it stands for."""
    text = os.path.expanduser(text)
    if text not in datasets.DATASETS and ":" not in text:
        kind = {".npz": "arrays", ".csv": "table", ".parquet": "table", ".tsv": "table"}.get(Path(text).suffix.lower())
        text = f"{kind or 'folder'}:{text}"
    return datasets.canonical(text)


def _of_name(text: str, split: str, on_progress: Progress) -> Split:
    name = _name(text)
    if name.startswith("folder:") and "?" not in name:
        return _of_folder(absolute(name.removeprefix("folder:")), split)
    return _of_known(datasets.load(name, on_progress), split)


def _of_known(dataset: Dataset, split: str) -> Split:
    names = dataset.train_names if split == "train" else dataset.test_names
    return Split(dataset.images(split), dataset.labels(split), dataset.classes, names)


def _of_folder(root: Path, split: str) -> Split:
    """Its images by class and name, those of `split` where the folder has train and test."""
    listing = image_folder.scan(root)
    parts = {part for part, _ in listing.members}
    wanted = {split} if "test" in parts else parts
    found = [
        (label, stamp.path)
        for (part, label), stamp in zip(listing.members, listing.stamps, strict=True)
        if part in wanted
    ]
    if not found:
        raise DataError(f"{printable(str(root))} has no {split} images.", HOW)
    found.sort()
    classes = tuple(sorted({label for label, _ in found}))
    numbers = {label: number for number, label in enumerate(classes)}
    labels = np.array([numbers[label] for label, _ in found], np.int64)
    names = [path for _, path in found]
    return Split([str(root / path) for path in names], labels, tuple(map(printable, classes)), names)


def _of_torch(value: Any, split: str) -> Split:
    inner, chosen = value, None
    if isinstance(inner, torch_data.DataLoader):
        inner = inner.dataset
    while isinstance(inner, torch_data.Subset):
        indices = np.asarray(inner.indices, np.int64)
        chosen = indices if chosen is None else indices[chosen]
        inner = inner.dataset
    classes = _class_names(getattr(inner, "classes", None))
    if (found := _samples(inner)) is not None:
        if chosen is not None:
            found = [found[i] for i in chosen.tolist()]
        paths, labels = zip(*found, strict=True)
        return Split(list(paths), np.array(labels, np.int64), classes, [os.path.basename(path) for path in paths])
    try:
        read = given(value)
    except ConfigError as error:
        raise ConfigError(f"`{split}`: {error.what}", error.remedy) from None
    return replace(_of_pair(read.inputs, read.labels, split), classes=classes)


def _samples(data: Any) -> list[tuple[str, int]] | None:
    """The files and labels of torchvision's ImageFolder, and of what is made like it."""
    samples = getattr(data, "samples", None)
    if not isinstance(samples, list) or not samples:
        return None
    sound = all(
        isinstance(each, tuple) and len(each) == 2 and isinstance(each[0], str | Path) and isinstance(each[1], int)
        for each in samples
    )
    return [(str(path), label) for path, label in samples] if sound else None


def _class_names(names: Any) -> tuple[str, ...] | None:
    if isinstance(names, list | tuple) and names and all(isinstance(each, str) for each in names):
        return tuple(printable(each) for each in names)
    return None


def _of_pair(images: Any, labels: Any, split: str) -> Split:
    numbers = labels_of(labels)
    if not isinstance(numbers, Tensor) or numbers.ndim != 1 or not len(numbers):
        raise ConfigError(f"The labels of `{split}` are no whole numbers [N].", HOW)
    labels_N = numbers.cpu().numpy().astype(np.int64)
    if not isinstance(images, Tensor | np.ndarray | list | tuple):
        raise ConfigError(f"The images of `{split}` are a {type(images).__name__}.", HOW)
    if len(images) != len(labels_N):
        raise ConfigError(f"`{split}` has {len(images):,} images and {len(labels_N):,} labels.", "Give each one label.")
    of_files = isinstance(images, list | tuple) and all(isinstance(each, str | Path) for each in images)
    return Split(images, labels_N, None, [printable(str(each)) for each in images] if of_files else None)
