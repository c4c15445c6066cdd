"""Images as a report holds them: data URIs, small enough to be mailed.

An image of at most `EXACT` pixels a side is kept exactly, as PNG or lossless WebP, whichever is smaller, and drawn at a
whole multiple of its pixels with sharp edges. A larger one is made smaller, to `LARGE` pixels (a target's own to
`OWN`), as WebP of quality 80: 160 of them at 4 KB each are what a photo weighs.
"""

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, features

from engine.datasets.base import Dataset

EXACT = 64  # pixels of the longer side, of images that are kept as they are

LARGE, OWN = 160, 320  # pixels of the longer side, of those that are made smaller

QUALITY = 80  # of WebP and JPEG

TILE, WIDE = 96, 192  # CSS pixels of the longer side, about: of a training image, and of a target

SAMPLED = 16  # images of which the size of a file is foretold


@dataclass(frozen=True)
class Picture:
    """`width` and `height` in CSS pixels; `sharp`: its pixels are drawn as squares."""

    src: str  # a data URI
    alt: str
    width: int
    height: int
    sharp: bool


def encoded(image: np.ndarray, large: int = LARGE) -> tuple[str, bytes]:
    """Media type and bytes of an image uint8 [H, W, C], C of 1 or 3."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    if max(picture.size) <= EXACT:
        kinds = [_as(picture, "PNG", optimize=True)]
        if features.check("webp"):
            kinds.append(_as(picture, "WEBP", lossless=True, quality=80, method=4))
        return min(kinds, key=lambda kind: len(kind[1]))
    picture.thumbnail((large, large), Image.Resampling.LANCZOS)
    return _as(picture, "WEBP" if features.check("webp") else "JPEG", quality=QUALITY)


def _as(picture: Image.Image, kind: str, **options: object) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"image/{kind.lower()}", buffer.getvalue()


def size_on_page(shape: tuple[int, ...], wanted: int) -> tuple[int, int]:
    """Width and height in CSS pixels of an image [H, W, …]: of a small one the whole multiple of its pixels that is
    nearest to `wanted` on its longer side; of a larger one `wanted`."""
    height, width = shape[:2]
    longer = max(height, width)
    if longer <= EXACT:
        times = max(1, (2 * wanted + longer) // (2 * longer))
        return width * times, height * times
    return max(1, round(width * wanted / longer)), max(1, round(height * wanted / longer))


def picture(image: np.ndarray, alt: str, own: bool = False) -> Picture:
    """`own`: a target's, which is shown larger."""
    kind, content = encoded(image, OWN if own else LARGE)
    width, height = size_on_page(image.shape, WIDE if own else TILE)
    src = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return Picture(src, alt, width, height, max(image.shape[:2]) <= EXACT)


class Pictures:
    """The images of one data set, each encoded once: the same training image stands below many targets."""

    def __init__(self, dataset: Dataset):
        self._dataset, self._made = dataset, {}

    def of(self, split: str, index: int, own: bool = False) -> Picture:
        key = split, index, own
        if key not in self._made:
            self._made[key] = picture(self._dataset.images(split)[index], self._alt(split, index), own)
        return self._made[key]

    def _alt(self, split: str, index: int) -> str:
        label = self._dataset.classes[self._dataset.labels(split)[index]]
        file = self._dataset.file_name(split, index)
        return f"{'Training' if split == 'train' else 'Test'} image {index}, label {label}{f', {file}' if file else ''}"


def mean_bytes(dataset: Dataset) -> float:
    """Of one training image in a report, as text: the mean of `SAMPLED` of them, evenly spread."""
    n = len(dataset.train_images)
    indices = np.unique(np.linspace(0, n - 1, min(n, SAMPLED)).astype(np.int64))
    return float(np.mean([4 / 3 * len(encoded(dataset.train_images[i])[1]) for i in indices.tolist()]))
