"""Features of images, rows of numbers in which images that are alike are near each other. No torch.

    features/train.npy       float32 [N, D] of the training images
    features/test.npy        float32 [M, D] of the test images
    features/features.json   what they are, in words

in a run's folder, written by the job `engine.jobs.features`: the input of the trained model's last layer. A run without
a model (imported scores, or saved from Python) has none; `of_pixels` is the other source, and a poorer one: it knows
nothing of what the model sees, and is ruled by position and light.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine import files
from engine.datasets.base import Dataset
from engine.errors import IntegrityError
from engine.runs import fields
from engine.runs.manifest import Manifest
from engine.runs.run import Run

FOLDER = "features"
TRAIN, TEST, ABOUT = (f"{FOLDER}/{name}" for name in ("train.npy", "test.npy", "features.json"))
STATE = "model/state.safetensors"
REMEDY = "Compute the features again."
PIECE = 1 << 22  # pixels that are scaled at a time
SIDE = 16  # pixels of a scaled image


@dataclass(frozen=True, eq=False)
class Features:
    """`train` float32 [N, D] and `test` float32 [M, D], memory-mapped where they come from a run's folder; `of` says in
    words what they are, such as «penultimate features of the model»."""

    train: np.ndarray
    test: np.ndarray
    of: str


def read(run: Any) -> Features | None:
    """Of a run: a `Manifest`, what has one (a `Run`, a `RunView`), or the path of its folder. None where nobody
    computed them, or they were deleted. Raises `IntegrityError` where the files are damaged."""
    record = manifest_of(run)
    if not {TRAIN, TEST, ABOUT} <= record.files.keys():
        return None
    train, test = (files.read_npy(record.folder / name, record.files[name], REMEDY) for name in (TRAIN, TEST))
    about = files.read_json(record.folder / ABOUT, REMEDY, record.files[ABOUT])
    try:
        fields.check(about, {"of": fields.text})
        of = about["of"]
    except (TypeError, ValueError, KeyError) as error:
        raise IntegrityError(f"{record.folder / ABOUT} does not say what the features are ({error}).", REMEDY) from None
    for array in (train, test):
        if array.dtype != np.float32 or array.ndim != 2 or array.shape[1:] != train.shape[1:]:
            raise IntegrityError(
                f"The features of run {record.run_id} are damaged: {array.dtype} {array.shape}.", REMEDY
            )
    return Features(train, test, of)


def manifest_of(run: Any) -> Manifest:
    """See `read`."""
    if isinstance(run, str | Path):
        run = Run(Path(run).parent, Path(run).name)
    record = run if isinstance(run, Manifest) else run.manifest
    return record if isinstance(record, Manifest) else record()


def why_not(record: Manifest) -> str:
    """Why the run can have no features of its model, in a sentence; "" where it can."""
    if record.from_python:
        return "This run was saved from Python, and its model is there alone: it has no features of the model."
    if record.method:
        return f"The scores of {record.method} were made elsewhere, without weights: there are no features of a model."
    if not record.trained:
        return "This run was not trained to its end: it has no features of the model yet."
    if STATE not in record.files:
        return "This run has no weights: it has no features of a model."
    return ""


# -- of pixels


def some_pixels(dataset: Dataset, images: np.ndarray, side: int = SIDE) -> np.ndarray:
    """The rows of `of_pixels` of these training images alone, float32 [M, D]: for who needs a few hundred of them, and
    not tens of megabytes."""
    return _scaled(dataset.train_images[images], side)


def of_pixels(dataset: Dataset, side: int = SIDE) -> Features:
    """The images themselves, each channel scaled to `side` × `side` by the mean over areas, from 0 to 1:
    D = side² × channels. The last ones asked for are kept in memory."""
    key = dataset.fingerprint, side
    return _kept(key, lambda: _of_pixels(dataset, side))


def _of_pixels(dataset: Dataset, side: int) -> Features:
    return Features(_scaled(dataset.train_images, side), _scaled(dataset.test_images, side), pixels_in_words(side))


def pixels_in_words(side: int = SIDE) -> str:
    return f"pixels, scaled to {side} × {side}; no model has a say in them"


def _scaled(images: np.ndarray, side: int) -> np.ndarray:
    """float32 [N, side² · C] of uint8 [N, H, W, C]."""
    n, height, width, channels = images.shape
    rows, columns = _areas(height, side), _areas(width, side)
    scaled = np.empty((n, side * side * channels), np.float32)
    at_once = max(1, PIECE // (height * width * channels))
    for start in range(0, n, at_once):
        piece = images[start : start + at_once].astype(np.float32) / 255
        narrow = np.tensordot(piece, columns, (2, 1))  # [n, H, C, side]
        small = np.tensordot(narrow, rows, (1, 1))  # [n, C, side of the width, side of the height]
        scaled[start : start + at_once] = small.transpose(0, 3, 2, 1).reshape(len(piece), -1)
    return scaled


def _areas(pixels: int, side: int) -> np.ndarray:
    """float32 [side, pixels]: how much of each pixel lies in each of `side` equal parts of the line; rows sum to 1."""
    edges, at = np.arange(side + 1) * pixels / side, np.arange(pixels)
    begins, ends = edges[:-1, None], edges[1:, None]
    shared = np.clip(np.minimum(ends, at + 1) - np.maximum(begins, at), 0, None)
    return (shared / shared.sum(1, keepdims=True)).astype(np.float32)


_lock = threading.Lock()
_last: OrderedDict[tuple[str, int], Features] = OrderedDict()
KEPT = 1  # data set whose pixels stay in memory: 60,000 images of 16 × 16 are 60 megabytes


def _kept(key: tuple[str, int], make: Callable[[], Features]) -> Features:
    with _lock:  # two tabs that ask at once make them once
        if key not in _last:
            _last[key] = make()
        _last.move_to_end(key)
        while len(_last) > KEPT:
            _last.popitem(last=False)
        return _last[key]
