"""What a data set is: labelled images as arrays.

uint8 pixels and integer labels; batches are rows of it (there is no loader and there are no workers). A large one is
read once, and then memory-mapped (`engine.datasets.prepared`). Its fingerprint, SHA-256 over everything that training
sees, is kept with each run and compared before a replay.
"""

import functools
import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from engine.errors import DataError

SPLITS = ("train", "test")

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


class Sizes(NamedTuple):
    """What a configuration is checked against (`engine.config.check`)."""

    n_train: int
    n_test: int
    n_classes: int


@dataclass(frozen=True)
class Dataset:
    """Images uint8 [N, H, W, C] and labels int64 [N] of both splits.

    `name` is that of the registry; `title` and `source` say to people what it is and where it was read. `classes` are
    in the order of the labels. All of these are plain text, and never Markdown or HTML. `true_train_labels` int64 [N]
    stand where it is known that some labels are wrong.
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

    def images(self, split: str) -> np.ndarray:
        return self.train_images if split == "train" else self.test_images

    def labels(self, split: str) -> np.ndarray:
        return self.train_labels if split == "train" else self.test_labels

    @property
    def sizes(self) -> Sizes:
        return Sizes(len(self.train_labels), len(self.test_labels), len(self.classes))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """[H, W, C] of every image."""
        height, width, channels = self.train_images.shape[1:]
        return height, width, channels

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
        level = np.arange(256) / 255
        channels = range(self.train_images.shape[-1])
        counts = np.stack([np.bincount(self.train_images[..., c].ravel(), minlength=256) for c in channels])
        mean = counts @ level / counts.sum(1)
        varies = (counts > 0).sum(1) > 1  # the difference below need not be exactly 0 where nothing does
        variance = np.where(varies, counts @ level**2 / counts.sum(1) - mean**2, 1.0)
        return mean, np.sqrt(variance)

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
