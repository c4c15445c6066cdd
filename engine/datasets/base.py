"""Labelled images as arrays: the embedded sample, and the full Fashion-MNIST.

A data set is uint8 pixels and integer labels; batches are rows of it (there is no loader and there
are no workers). A large one is read once, and then memory-mapped (`prepared`). Its fingerprint,
SHA-256 over everything that training sees, is kept with each run and compared before a replay.
"""

import functools
import hashlib
import io
from dataclasses import dataclass

import numpy as np

SPLITS = ("train", "test")

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


@dataclass(frozen=True)
class Dataset:
    """Images uint8 [N, H, W, C] and labels int64 [N] of both splits; classes in label order.

    `mean` and `std` are per channel over the training images scaled to 0..1, float64 [C].
    """

    name: str
    title: str
    source: str
    classes: tuple[str, ...]
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    true_train_labels: np.ndarray | None = None  # where it is known that some labels are wrong

    def images(self, split: str) -> np.ndarray:
        return self.train_images if split == "train" else self.test_images

    def labels(self, split: str) -> np.ndarray:
        return self.train_labels if split == "train" else self.test_labels

    @functools.cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.classes).encode())
        for split in SPLITS:
            for array in (self.images(split), self.labels(split)):
                digest.update(f"{split} {array.dtype} {array.shape}".encode())
                digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()

    @functools.cached_property
    def mean(self) -> np.ndarray:
        return self._histogram_moments[0]

    @functools.cached_property
    def std(self) -> np.ndarray:
        return self._histogram_moments[1]

    @functools.cached_property
    def _histogram_moments(self) -> tuple[np.ndarray, np.ndarray]:
        # From 256 counts a channel: exact, and no float copy of the images.
        level = np.arange(256) / 255
        channels = range(self.train_images.shape[-1])
        counts = np.stack([np.bincount(self.train_images[..., c].ravel(), minlength=256) for c in channels])
        mean = counts @ level / counts.sum(1)
        return mean, np.sqrt(counts @ level**2 / counts.sum(1) - mean**2)


def png(image: np.ndarray) -> bytes:
    """PNG of a uint8 [H, W, C] image."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()
