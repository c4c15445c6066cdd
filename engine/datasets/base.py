"""What a data set is: labelled images as arrays.

uint8 pixels and integer labels; batches are rows of it (there is no loader and there are no workers). A large one is
read once, and then memory-mapped (`engine.datasets.prepared`). Its fingerprint, SHA-256 over everything that training
sees, is kept with each run and compared before a replay.
"""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.datasets.decode import ImageForm
from engine.errors import DataError

SPLITS = ("train", "test")

PIECE = 4 << 20  # bytes of images that are looked at together

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


class Sizes(NamedTuple):
    """What a configuration is checked against (`engine.config.check`)."""

    n_train: int
    n_test: int
    n_classes: int
    image_shape: tuple[int, int, int] | None = None  # [H, W, C]


@dataclass(frozen=True)
class Dataset:
    """Images uint8 [N, H, W, C] and labels int64 [N] of both splits.

    `name` is that of the registry; `title` and `source` say to people what it is and where it was read. `classes` are
    in the order of the labels. All of these are plain text, and never Markdown or HTML. `true_train_labels` int64 [N]
    stand where it is known that some labels are wrong. Where the images were made of files, `train_names` and
    `test_names` are these files, `form` says how they became images, and `folder` is where they are prepared
    (`engine.datasets.store`).
    """

    name: str
    title: str
    source: str
    classes: tuple[str, ...]
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    true_train_labels: np.ndarray | None = None
    train_names: Sequence[str] | None = None
    test_names: Sequence[str] | None = None
    form: ImageForm | None = None
    folder: Path | None = None

    def images(self, split: str) -> np.ndarray:
        return self.train_images if split == "train" else self.test_images

    def labels(self, split: str) -> np.ndarray:
        return self.train_labels if split == "train" else self.test_labels

    def counts(self, split: str) -> np.ndarray:
        """Images of each class, int64 [classes]."""
        return np.bincount(self.labels(split), minlength=len(self.classes))

    @property
    def sizes(self) -> Sizes:
        return Sizes(len(self.train_labels), len(self.test_labels), len(self.classes), self.image_shape)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """[H, W, C] of every image."""
        height, width, channels = self.train_images.shape[1:]
        return height, width, channels

    def file_name(self, split: str, index: int) -> str | None:
        """The image's source file; None where it comes from no file of its own."""
        names = self.train_names if split == "train" else self.test_names
        return names[index] if names else None

    def with_known(self, fingerprint: str, counts: np.ndarray, mapped: dict[Path, tuple[int, ...]]) -> "Dataset":
        """This value, with what is known already: its fingerprint, its `histogram`, and which files it maps, as
        `engine.datasets.store.identity` has them. They are no fields, so that a copy by `dataclasses.replace` never
        inherits them."""
        vars(self).update(fingerprint=fingerprint, _counts=counts, mapped=mapped)
        return self

    @functools.cached_property
    def mapped(self) -> dict[Path, tuple[int, ...]]:
        """Files of the data folder that the arrays are maps of; none, where nobody keeps them for this data set."""
        return {}

    @functools.cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.classes).encode())
        for split in SPLITS:
            for array in (self.images(split), self.labels(split)):
                digest.update(f"{split} {array.dtype} {array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    @property
    def mean(self) -> np.ndarray:
        """float64 [C], of the training images scaled to 0..1."""
        return self._moments[0]

    @property
    def std(self) -> np.ndarray:
        """float64 [C], likewise; 1 for a channel of one single value, which standardises to 0 then, and not to NaN."""
        return self._moments[1]

    @functools.cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        # From 256 counts a channel: exact, and no float copy of the images.
        level, counts = np.arange(256) / 255, self._counts
        mean = counts @ level / counts.sum(1)
        varies = (counts > 0).sum(1) > 1  # the difference below need not be exactly 0 where nothing does
        variance = np.where(varies, counts @ level**2 / counts.sum(1) - mean**2, 1.0)
        return mean, np.sqrt(variance)

    @functools.cached_property
    def _counts(self) -> np.ndarray:
        return histogram(self.train_images)

    def check(self) -> "Dataset":
        """The same data set; `DataError` where it is not what the class says, in shapes, types or labels."""
        for split in SPLITS:
            images, labels = self.images(split), self.labels(split)
            if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
                self._refuse(f"its {split} images are {images.dtype} {list(images.shape)}, not uint8 [N, H, W, C]")
            if images.shape[1:] != self.train_images.shape[1:]:
                self._refuse("its test images have another size than its training images")
            if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
                self._refuse(f"its {split} labels are {labels.dtype} {list(labels.shape)}, not int64, one an image")
            if labels.min() < 0 or labels.max() >= len(self.classes):
                self._refuse(f"its {split} labels are not all from 0 to {len(self.classes) - 1}")
        return self

    def _refuse(self, why: str) -> None:
        raise DataError(f"The data set «{self.name}» cannot be used: {why}.", "Correct the function that loads it.")


def histogram(images: np.ndarray) -> np.ndarray:
    """How many pixels of uint8 images [N, H, W, C] have each of the 256 levels, int64 [C, 256]; counted in pieces, so
    that a memory map is never whole in memory."""
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    for piece in pieces(images):
        for channel in range(channels):
            counts[channel] += np.bincount(piece[..., channel].ravel(), minlength=256)
    return counts


def pieces(images: np.ndarray) -> Iterator[np.ndarray]:
    """Consecutive rows, about `PIECE` bytes at a time."""
    rows = max(1, PIECE // max(1, images[:1].nbytes))
    for start in range(0, len(images), rows):
        yield images[start : start + rows]
