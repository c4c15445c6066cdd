"""A data set with the corrections of a person: other labels, and training images left out.

    corrected:NAME      DATA/corrected/NAME.json: the data set that it is of, with its fingerprint; labels; what is left
                        out; its own fingerprint; and a checksum of all that

Its images are those of the base, mapped and never copied. The test split stays as it is. A name ends with a digest of
what it says and is never given another meaning, so that a run on it can be replayed for as long as the file is there.

**The order of the images.** An image that is left out leaves a hole, and the last one that stays moves there, so that
nearly all keep their number: `origins` says which image of the base each is. To have the holes filled without a copy,
the base's file is mapped once more, privately: the system keeps the few pages that are written, and shares the others.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine import files
from engine.datasets import registry
from engine.datasets.base import Dataset, histogram
from engine.datasets.names import DatasetName, name_error
from engine.datasets.prepared import data_folder, disk_errors
from engine.datasets.source import Progress
from engine.errors import ConfigError, DataError, IntegrityError

KIND = "corrected"

SCHEMA = 1

PLACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")  # of a name: no way leads out of the folder

REMEDY = "Make it again from the corrections of the run (Triage, or python -m engine corrections RUN --dataset)."


@dataclass(frozen=True)
class Recipe:
    """What the file says. `labels`: numbers of classes by training image of the base; `of`: the fingerprint of the data
    set that a person corrected, the base or one that was corrected before."""

    name: str  # corrected:NAME
    base: str
    base_fingerprint: str
    labels: Mapping[int, int]
    excluded: tuple[int, ...]
    of: str
    fingerprint: str


def make(base: Dataset, labels: Mapping[int, int], excluded: Collection[int]) -> str:
    """The name of a data set with these corrections, whose file is written where it is not there yet.

    Of a data set that is corrected itself, the new one is of its base, with both. Raises `ConfigError` for images or
    classes that are not there and where nothing is corrected, `DataError` where too little is left to train on.
    """
    n = len(base.train_labels)
    excluded = sorted({int(i) for i in excluded})
    labels = {int(i): int(c) for i, c in sorted(labels.items()) if int(i) not in {*excluded}}
    if images := [i for i in (*labels, *excluded) if not 0 <= i < n]:
        raise ConfigError(f"There is no training image {images[0]}.", f"They are numbered from 0 to {n - 1}.")
    if wrong := [c for c in labels.values() if not 0 <= c < len(base.classes)]:
        raise ConfigError(
            f"There is no class {wrong[0]}.", f"The classes are numbered from 0 to {len(base.classes) - 1}."
        )
    labels = {i: c for i, c in labels.items() if c != base.train_labels[i]}
    if not labels and not excluded:
        raise ConfigError("Nothing is corrected: no label is another one, and no image is left out.", "Decide first.")
    of = base.fingerprint
    if base.name.startswith(f"{KIND}:"):
        base, labels, excluded = of_its_base(base, labels, excluded)
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "base": base.name,
        "base_fingerprint": base.fingerprint,
        "labels": {str(i): c for i, c in labels.items()},
        "excluded": excluded,
        "of": of,
    }
    name = f"{_stem(base)}-{files.json_digest(content)[:12]}"
    corrected = _corrected(base, f"{KIND}:{name}", labels, excluded)
    path = _path(name)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    content["fingerprint"] = corrected.fingerprint
    files.write_json(path, content | {"checksum": files.json_digest(content)})
    return corrected.name


def of_its_base(
    corrected: Dataset, labels: Mapping[int, int], excluded: Collection[int]
) -> tuple[Dataset, dict[int, int], list[int]]:
    """The base of a corrected data set, and both corrections in one, by its images."""
    recipe = read(corrected.name)
    base = registry.load(recipe.base)
    origin = origins(len(base.train_labels), recipe.excluded)
    left_out = {*recipe.excluded, *(int(origin[i]) for i in excluded)}
    both = {**recipe.labels, **{int(origin[i]): c for i, c in labels.items()}}
    both = {i: c for i, c in sorted(both.items()) if i not in left_out and c != base.train_labels[i]}
    return base, both, sorted(left_out)


def _stem(base: Dataset) -> str:
    stem = re.sub(r"[^A-Za-z0-9_]+", "-", base.title).strip("-")[:40]
    return stem or "data"


def read(name: str) -> Recipe:
    """What a name stands for. Raises `DataError` where its file is missing or damaged."""
    path = _path(DatasetName.parse(name).place)
    try:
        value = files.read_json(path, REMEDY)
        checksum = value.pop("checksum")
        if value["schema"] != SCHEMA or checksum != files.json_digest(value):
            raise ValueError("it has changed since it was written, or is of another version")
        return Recipe(
            name,
            str(value["base"]),
            str(value["base_fingerprint"]),
            {int(i): int(c) for i, c in value["labels"].items()},
            tuple(map(int, value["excluded"])),
            str(value["of"]),
            str(value["fingerprint"]),
        )
    except IntegrityError as error:
        raise DataError(error.what, REMEDY) from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} does not describe a corrected data set ({error}).", REMEDY) from None


def _path(place: str) -> Path:
    if not PLACE.fullmatch(place):
        raise name_error(f"{KIND}:{place}", "has letters, digits, - and _ only after «corrected:»")
    return data_folder() / KIND / f"{place}.json"


def is_there(name: str) -> bool:
    """Whether it is ready: its file, and the data set that it is of."""
    try:
        return registry.is_prepared(read(name).base)
    except (ConfigError, DataError):
        return False


def all_there() -> list[Recipe]:
    """Those that can be read, by name."""
    try:
        names = sorted(path.stem for path in (data_folder() / KIND).glob("*.json") if PLACE.fullmatch(path.stem))
    except OSError:
        return []
    recipes = []
    for name in names:
        try:
            recipes.append(read(f"{KIND}:{name}"))
        except DataError:  # who asks for it by its name is told
            continue
    return recipes


def delete(name: str) -> int:
    """Deletes the file of corrections and returns the bytes freed; the base stays. A run on it is then like one whose
    folder is gone, until the same corrections are made again."""
    path = _path(DatasetName.parse(name).place)
    return files.remove_inside(data_folder(), path)


def load(name: DatasetName, on_progress: Progress) -> Dataset:
    """The base with the corrections. Raises `DataError` where the base is another one by now."""
    if name.options:
        raise name_error(str(name), f"has no option {name.options[0][0]}: its base has all of them")
    recipe = read(str(name))
    base = registry.reload(recipe.base, on_progress)
    if base.fingerprint != recipe.base_fingerprint:
        raise DataError(
            f"The data set {base.name} has changed since the corrections of {name} were made."
            f"{registry.changes(recipe.base, recipe.base_fingerprint)}",
            "Restore it; or correct the labels of a run on the data as they are now.",
        )
    dataset = _corrected(base, str(name), recipe.labels, recipe.excluded)
    left_out = histogram(base.train_images[list(recipe.excluded)]) if recipe.excluded else 0
    return dataset.with_known(recipe.fingerprint, base._counts - left_out, base.mapped)


def origins(n: int, excluded: Collection[int]) -> np.ndarray:
    """int64 [N − k]: which of the base's `n` training images each image is; k are left out, and the last that stay
    fill their holes, the last of all the first hole."""
    left_out = np.zeros(n, bool)
    left_out[list(excluded)] = True
    stay = n - int(left_out.sum())
    origin = np.arange(n)
    holes = np.flatnonzero(left_out[:stay])
    origin[holes] = (stay + np.flatnonzero(~left_out[stay:]))[::-1]
    return origin[:stay]


def _corrected(base: Dataset, name: str, labels: Mapping[int, int], excluded: Collection[int]) -> Dataset:
    n, excluded = len(base.train_labels), list(excluded)
    new = base.train_labels.copy()
    new[list(labels)] = list(labels.values())
    origin = origins(n, excluded)
    counts = np.bincount(new[origin], minlength=len(base.classes))
    if np.count_nonzero(counts) < 2:
        raise DataError(
            f"With these corrections {base.title} has training images of one class, or of none.",
            "Leave images of two classes or more.",
        )
    words = [f"{len(labels):,} other labels"] * bool(labels) + [f"{len(excluded):,} left out"] * bool(excluded)
    true, names = base.true_train_labels, base.train_names
    dataset = replace(
        base,
        name=name,
        title=f"{base.title}, corrected: {', '.join(words)}",
        source=f"{base.source}; corrections in {data_folder() / KIND}",
        train_images=_images(base, origin),
        train_labels=new[origin],
        true_train_labels=None if true is None else true[origin],
        train_names=None if names is None else [names[i] for i in origin.tolist()],
        folder=None,  # what is recorded there of images goes by the numbers of the base
    )
    return dataset.check()


def _images(base: Dataset, origin: np.ndarray) -> np.ndarray:
    """The base's training images in another order, read-only. A view where none is left out; of a mapped file a private
    map, in which a few rows are others; a copy where the base is in memory."""
    images, stay = base.train_images, len(origin)
    holes = np.flatnonzero(origin != np.arange(stay))
    if not len(holes):
        return images[:stay]
    path = next((path for path in base.mapped if path.name == "train_images.npy"), None)
    if path is None:
        filled = images[:stay].copy()
    else:
        filled = np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))[:stay]
    filled[holes] = images[origin[holes]]
    filled.flags.writeable = False
    return filled
