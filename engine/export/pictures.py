"""The images of a data set as files: those that they were made of, or their pixels as PNG."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from engine.datasets import originals
from engine.datasets.base import SPLITS, Dataset
from engine.errors import DataError
from engine.export.places import safe_file

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # of Pillow, by channels

PNG_HEAD = 128  # bytes of a PNG beside its pixels


@dataclass(frozen=True)
class Pictures:
    """`pixels`: as PNG also where there are files."""

    dataset: Dataset
    pixels: bool = False

    @cached_property
    def _originals(self) -> originals.Originals | None:
        return None if self.pixels else originals.of(self.dataset)

    @property
    def of_files(self) -> bool:
        """Whether files are copied, untouched."""
        return self._originals is not None

    def name(self, split: str, index: int) -> str:
        """A safe name of the image's file; two may have the same."""
        known = self._names[split]
        if known is None:
            return f"{index:06d}.png"
        return safe_file(str(known[index]), None if self.of_files else ".png")

    def read(self, split: str, index: int) -> bytes:
        """The file's content. Raises `DataError` where a source file is missing, or not what it was."""
        names, source = self._names[split], self._originals
        if source is not None and names is not None:
            return source.read(str(names[index]))
        return png(self.dataset.images(split)[index])

    def size(self, split: str) -> int:
        """Bytes of all images of a split, about: of PNGs what noise would take."""
        names, source = self._names[split], self._originals
        if source is not None and names is not None:
            return sum(source.size(str(name)) for name in names)
        images = self.dataset.images(split)
        return images.nbytes + PNG_HEAD * len(images)

    @cached_property
    def _names(self) -> dict:
        return dict(zip(SPLITS, (self.dataset.train_names, self.dataset.test_names), strict=True))


def png(image: np.ndarray) -> bytes:
    """Of uint8 [H, W, C], with every pixel as it is."""
    channels = image.shape[2]
    if channels not in MODES:
        raise DataError(
            f"Images of {channels} channels are no pictures that PNG holds.", "Export a table, without images."
        )
    buffer = io.BytesIO()
    array = np.ascontiguousarray(image[..., 0] if channels == 1 else image)
    Image.fromarray(array, MODES[channels]).save(buffer, "PNG")
    return buffer.getvalue()


def numbered(pictures: Pictures, split: str, index: int) -> str:
    """Where an image lies in a tree that has one folder a split: its number makes it one of its own."""
    return f"{split}/{index:06d}-{pictures.name(split, index)}"


def all_of(pictures: Pictures, splits: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Split and index of every image."""
    for split in splits:
        yield from ((split, index) for index in range(len(pictures.dataset.labels(split))))
