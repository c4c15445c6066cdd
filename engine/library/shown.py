"""What the app shows of a training from Python: pictures, the model's answers to them, scores beside their targets."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine import files
from engine.core import targets as target_values
from engine.core.stream import Examples
from engine.datasets import saved
from engine.datasets.base import SPLITS, Dataset, histogram
from engine.datasets.decode import ImageForm
from engine.datasets.names import printable
from engine.errors import ConfigError
from engine.library import matrices, pictures
from engine.library.checks import computing, targets_data
from engine.library.inputs import Inputs, Labels, labels_of, may_be_channels
from engine.library.trained import Trained
from engine.targets import read_function, read_targets

SCHEMA = 1  # of data/data.json


@dataclass(frozen=True, eq=False)
class Shown:
    """What the app is to show beside the training, as `Trained.save` takes it."""

    images: Any = None
    classes: Sequence[str] | None = None
    test_images: Any = None
    test_labels: Labels | None = None
    test_inputs: Inputs | None = None
    scores: np.ndarray | None = None
    targets: Sequence[Any] | None = None
    function: str = "loss"
    window: float = 0
    title: str = ""
    note: str = ""


# -- the pictures


def write_data(trained: Trained, folder: Path, shown: Shown, title: str) -> Dataset:
    data = trained.stream.data
    test_labels = labels_of(shown.test_labels)
    if shown.test_images is None or not isinstance(test_labels, Tensor):
        raise ConfigError(
            "A run that the app shows has test images with their labels.", "Give test_images= and test_labels=."
        )
    images = {"train": _train_pictures(trained, shown), "test": shown.test_images}
    labels = {"train": data.labels.cpu().numpy(), "test": test_labels.cpu().numpy()}
    classes = _class_names(trained, shown)
    names = {split: _file_names(images[split]) for split in SPLITS}
    return write_pictures(folder, images, labels, classes, names, title, _form_of_inputs(trained))


def write_pictures(
    folder: Path,
    images: Mapping[str, Any],
    labels: Mapping[str, np.ndarray],
    classes: tuple[str, ...],
    names: Mapping[str, Sequence[str] | None],
    title: str,
    form: ImageForm | None = None,
    what: Mapping[str, str] = MappingProxyType({"train": "images", "test": "test_images"}),
) -> Dataset:
    """Writes both splits' pictures, as `pictures.write` takes them, with their labels int64, as the data set of a run's
    own (`engine.datasets.saved`). `form` is what files are brought to; `what` names each in errors. Raises
    `ConfigError` where the splits do not go together."""
    for split in SPLITS:
        if labels[split].min() < 0 or labels[split].max() >= len(classes):
            raise ConfigError(
                f"`{what[split].replace('images', 'labels')}` go from {labels[split].min()} to {labels[split].max()}.",
                f"Labels go from 0 to {len(classes) - 1}, in the order of the {len(classes)} classes.",
            )
    for split in SPLITS:
        written = pictures.write(folder / f"{split}_images.npy", images[split], len(labels[split]), what[split], form)
        form = form if split == "test" and form is not None else written
        if (form.height, form.width, form.channels) != (written.height, written.width, written.channels):
            raise ConfigError(
                f"`{what[split]}` are {written.height} × {written.width} with {written.channels} channels, and "
                f"`{what['train']}` {form.height} × {form.width} with {form.channels}.",
                "Give pictures of one size and mode.",
            )
    for split in SPLITS:
        files.write_npy(folder / f"{split}_labels.npy", labels[split])
    remedy = "Save it again."
    arrays: Any = {
        f"{split}_{array}": np.asarray(files.read_npy(folder / f"{split}_{array}.npy", None, remedy))
        for split in SPLITS
        for array in ("images", "labels")
    }
    dataset = Dataset("saved", title, "", classes, **arrays)
    record = {
        "schema": SCHEMA,
        "title": printable(title),
        "classes": classes,
        "names": {split: None if names[split] is None else list(names[split] or ()) for split in SPLITS},
        "fingerprint": dataset.fingerprint,
        "histogram": histogram(dataset.train_images).tolist(),
        "sha256": {f"{key}.npy": files.sha256_of(folder / f"{key}.npy") for key in arrays},
    }
    files.write_json(folder / saved.RECORD, record)
    return dataset


def _train_pictures(trained: Trained, shown: Shown) -> Any:
    if shown.images is not None:
        return shown.images
    inputs = trained.stream.data.inputs
    if trained.trunk is None and isinstance(inputs, Tensor) and pictures.of_floats(inputs):
        return inputs
    raise ConfigError(
        "What the model was trained on is no row of pictures from 0 to 1, so that there is nothing to show.",
        "Give images=: the training pictures in their order, as uint8 arrays, Pillow's images or file names.",
    )


def _form_of_inputs(trained: Trained) -> ImageForm | None:
    """What files are brought to: the size of the model's inputs, where these are pictures."""
    shape = trained.shape
    if may_be_channels(shape) == (True, False):
        return ImageForm(shape[1], shape[2], shape[0])
    return None


def _class_names(trained: Trained, shown: Shown) -> tuple[str, ...]:
    if shown.classes is None:
        return tuple(map(str, range(trained.classes)))
    names = class_names(shown.classes)
    if len(names) != trained.classes:
        raise ConfigError(
            f"`classes` has {len(names)} names, and the model has {trained.classes} classes.",
            "Give each class one name of its own, in the order of the labels.",
        )
    return names


def class_names(names: Any) -> tuple[str, ...]:
    """Names of classes as people give them, texts or numbers in the order of the labels. Raises `ConfigError` for what
    is no such row: a text would be one of letters, a dict one of its keys."""
    if isinstance(names, str | bytes | Mapping) or not isinstance(names, Iterable):
        raise ConfigError(f"`classes` is a {type(names).__name__}.", 'Give a list of names: ["cat", "dog"].')
    found = tuple(names)
    for k, name in enumerate(found):
        if isinstance(name, bool) or not isinstance(name, str | int | np.integer):
            raise ConfigError(f"The name of class {k} is a {type(name).__name__}.", "Give texts, or whole numbers.")
    shown = tuple(printable(str(name)) for name in found)
    if len(set(shown)) < len(shown) or "" in shown:
        raise ConfigError("`classes` names one twice, or not at all.", "Give each class one name of its own, in order.")
    return shown


def _file_names(given: Any) -> list[str] | None:
    named = isinstance(given, list | tuple) and all(isinstance(each, str | Path) for each in given)
    return [printable(str(each)) for each in given] if named else None


# -- what the model says, and what was asked


def logits_of(trained: Trained, dataset: Dataset, shown: Shown) -> dict[str, np.ndarray]:
    """float32 [n, C] of both splits, in evaluation mode."""
    asked = {"train": trained.stream.data, "test": _test_examples(trained, dataset, shown)}
    with computing(trained.model):
        return {
            split: target_values.logits(trained.model, trained.state, examples).float().cpu().numpy()
            for split, examples in asked.items()
        }


def _test_examples(trained: Trained, dataset: Dataset, shown: Shown) -> Examples:
    if shown.test_inputs is not None:
        found = targets_data(trained, shown.test_inputs, torch.from_numpy(np.array(dataset.test_labels)))
        if found.n != len(dataset.test_labels):
            raise ConfigError(f"`test_inputs` has {found.n} inputs.", "Give one for each of the test_images.")
        return found
    height, width, channels = dataset.image_shape
    inputs = trained.stream.data.inputs
    scaled = trained.trunk is None and isinstance(inputs, Tensor) and pictures.of_floats(inputs)
    if trained.shape != (channels, height, width) or not scaled:
        raise ConfigError(
            "What the model takes is not the pictures themselves, in floats from 0 to 1.",
            "Give test_inputs= too: the test images as the model takes them.",
        )
    floats = pictures.as_floats(dataset.test_images, trained.state.theta.dtype)
    return targets_data(trained, floats, torch.from_numpy(np.array(dataset.test_labels)))


def scores_of(trained: Trained, dataset: Dataset, shown: Shown) -> tuple[tuple[str, ...], np.ndarray | None, str]:
    """The targets' texts, the scores float32 [K, N], and the target function's name."""
    function = read_function(shown.function, dataset).name
    if shown.scores is None:
        if shown.targets is not None:
            raise ConfigError("`targets` were given without `scores`.", "Give what `attribute` gave for them.")
        return (), None, function
    matrix, n = matrices.opened(shown.scores), trained.stream.data.n
    if matrix.shape[1] != n:
        raise ConfigError(
            f"`scores` are {list(matrix.shape)}, and the model was trained on {n} examples.",
            f"Give finite scores [targets, {n}], as `attribute` gives them.",
        )
    scores = np.empty(matrix.shape, np.float32)
    matrices.fill(scores, matrix, "targets")
    targets = range(len(dataset.test_labels)) if shown.targets is None else shown.targets
    if len(targets) != len(scores):
        raise ConfigError(
            f"There are {len(targets)} targets for the {len(scores)} rows of `scores`.",
            'Name each row\'s target: targets=["test:0", "class:2", "test:all"], or test images by number.',
        )
    names = tuple(target_name(target, k, dataset) for k, target in enumerate(targets))
    if len(set(names)) < len(names):
        raise ConfigError("`targets` names one twice.", "Give each row of scores a target of its own.")
    return names, scores, function


def target_name(target: Any, k: int, dataset: Dataset) -> str:
    """The text of one target: of a text, of a test image's number, or of an index set as `attribute` takes it."""
    if isinstance(target, str):
        found = read_targets([target], dataset)
        if len(found) != 1 or found[0].of_the_model:
            raise ConfigError(f"«{target:.100}» is no single target of the data set.", "Name one a row.")
        return str(found[0])
    rows = np.atleast_1d(np.asarray(target))
    if rows.dtype.kind in "iu" and rows.size and rows.min() >= 0 and rows.max() < len(dataset.test_labels):
        if rows.size == 1:
            return f"test:{int(rows[0])}"
        chosen = np.unique(rows)
        if len(chosen) == len(dataset.test_labels) == rows.size:
            return "test:all"
        label = int(dataset.test_labels[chosen[0]])
        if np.array_equal(chosen, np.flatnonzero(dataset.test_labels == label)):
            return f"class:{label}"
    raise ConfigError(
        f"The app has no target for row {k} of `scores`: it knows single test images, all of a class, and all of them.",
        'Save the rows of such targets: "test:3", "class:2", "test:all", "train:17", or test images by number.',
    )
