"""Augmentation as a pure function of (seed, epoch, example).

    x'_i = a_n(… a_2(a_1(x_i; k_i1); k_i2) …; k_in)      k_ij = fold_in(key(seed, epoch, i), j)

Each transform a_j draws what it needs from the keys of its own examples (`engine.core.random`), so that an image is
augmented alike in training, replay, recomputation and retraining, wherever it stands in whatever batch, and whoever is
left out. What is drawn has the same bits on a CPU and on a GPU.

An image's pixels, too, do not depend on its neighbours: sums over an image are added in pairs, and sines and cosines
by a polynomial, because torch's own are rounded by how rows lie in memory.

To add a transform, register a `Kind` in `engine.augmentation` and its twin here, in one file; this one shows how.
It is a derivative's constant: weights are differentiated through, pixels never. Not for labels (no mixup: it makes one
example of two, and a weight would belong to neither).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.augmentation import Augmentation
from engine.core.random import AUGMENTATION, bits, example_keys, fold_in, uniform
from engine.errors import ConfigError

GREY = (0.2989, 0.587, 0.114)  # of red, green and blue: ITU-R 601, as in torchvision


@dataclass(frozen=True)
class Pixels:
    """What the values of an image mean: `fill` [C] stands where there is no pixel, `limits` are the least and the
    largest value of one, None where they are not known."""

    fill: Tensor
    limits: tuple[float, float] | None = None

    def clamped(self, images: Tensor) -> Tensor:
        return images if self.limits is None else images.clamp(*self.limits)


# Functions of (images [B, C, H, W], keys int64 [B], amount, their pixels' meaning) to images of the same shape.
Transform = Callable[[Tensor, Tensor, float, Pixels], Tensor]

TRANSFORMS: dict[str, Transform] = {}


def register(name: str, transform: Transform) -> Transform:
    """Adds the twin of a row of `engine.augmentation.KINDS`.

    It must be a function of each image and its key alone: no generator, no mean over the batch.
    """
    if TRANSFORMS.setdefault(name, transform) is not transform:
        raise ConfigError(f"There are two augmentations «{name}».", "Give one of them another name.")
    return transform


def augment(images: Tensor, keys_B: Tensor, augmentations: tuple[Augmentation, ...], pixels: Pixels) -> Tensor:
    """Images [B, C, H, W], each augmented by its own key, int64 [B] (`example_keys`)."""
    keys_B = fold_in(keys_B, AUGMENTATION)
    for position, each in enumerate(augmentations):
        if each.name not in TRANSFORMS:
            raise ConfigError(
                f"The augmentation «{each.name}» has a row and no transform.",
                "Register its function of tensors too (engine.core.augment.register).",
            )
        shape = images.shape
        images = TRANSFORMS[each.name](images, fold_in(keys_B, position), each.amount, pixels)
        if images.shape != shape:
            raise ConfigError(
                f"The augmentation «{each}» made images of shape {list(images.shape)} of {list(shape)}.",
                "Correct its function: it must keep the shape.",
            )
    return images


def flip(images: Tensor, keys_B: Tensor, amount: float, pixels: Pixels) -> Tensor:
    """Mirrors an image left to right with probability 1/2."""
    return torch.where(_each(bits(keys_B, 0) < 0), images.flip(-1), images)


def crop(images: Tensor, keys_B: Tensor, amount: float, pixels: Pixels) -> Tensor:
    """x'(r, c) = x(r + dr, c + dc), with dr, dc even over −`amount` … `amount` pixels; the fill where x ends."""
    height, width = images.shape[-2:]
    down, right = (whole(keys_B, draw, 2 * int(amount) + 1) - int(amount) for draw in range(2))
    rows, columns = _rows(height, images) + down[:, None], _rows(width, images) + right[:, None]  # [B, H], [B, W]
    inside = _within(rows, height)[:, None, :, None] & _within(columns, width)[:, None, None, :]
    moved = images.gather(2, rows.clamp(0, height - 1)[:, None, :, None].expand_as(images))
    moved = moved.gather(3, columns.clamp(0, width - 1)[:, None, None, :].expand_as(images))
    return torch.where(inside, moved, _filled(pixels))


def cutout(images: Tensor, keys_B: Tensor, amount: float, pixels: Pixels) -> Tensor:
    """Fills a square with a side of `amount` pixels, its centre even over all pixels, so that it may end at the
    border (arXiv 1708.04552)."""
    covered = []
    for draw, side in enumerate(images.shape[-2:]):
        first = whole(keys_B, draw, side)[:, None] - int(amount) // 2
        covered.append(_within(_rows(side, images) - first, int(amount)))
    return torch.where(covered[0][:, None, :, None] & covered[1][:, None, None, :], _filled(pixels), images)


def rotate(images: Tensor, keys_B: Tensor, amount: float, pixels: Pixels) -> Tensor:
    """Turns an image about its centre by an angle even over ±`amount` degrees, positive against the clock.

    Bilinear between the four nearest pixels (`grid_sample`, align_corners=False); the fill outside of the image.
    """
    angle = (2 * uniform(keys_B, 0, images.dtype) - 1) * math.radians(amount)
    cos, sin = (value[:, None, None] for value in _cos_sin(angle))
    height, width = images.shape[-2:]
    y = (_rows(height, images).to(images.dtype) - (height - 1) / 2)[:, None]  # [H, 1], from the centre
    x = _rows(width, images).to(images.dtype) - (width - 1) / 2  # [W]
    grid = torch.stack([(cos * x - sin * y) * (2 / width), (sin * x + cos * y) * (2 / height)], -1)
    fill = _filled(pixels)
    turned = F.grid_sample(images - fill, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return turned + fill


def brightness(images: Tensor, keys_B: Tensor, amount: float, pixels: Pixels) -> Tensor:
    """f x, with f even over 1 ± `amount`."""
    return pixels.clamped(images * _factor(keys_B, amount, images))


def contrast(images: Tensor, keys_B: Tensor, amount: float, pixels: Pixels) -> Tensor:
    """f x + (1 − f) m, with m the mean of the image in grey."""
    grey = _grey(images).flatten(1)
    mean = _each(_row_sums(grey) / grey.shape[1])
    return pixels.clamped(_blended(images, mean, _factor(keys_B, amount, images)))


def saturation(images: Tensor, keys_B: Tensor, amount: float, pixels: Pixels) -> Tensor:
    """f x + (1 − f) g, with g the image in grey."""
    return pixels.clamped(_blended(images, _grey(images), _factor(keys_B, amount, images)))


def jitter(images: Tensor, keys_B: Tensor, amount: float, pixels: Pixels) -> Tensor:
    """Brightness, contrast and, of three channels, saturation, in this order, by a factor each."""
    parts = (brightness, contrast, saturation) if images.shape[1] == 3 else (brightness, contrast)
    for position, part in enumerate(parts):
        images = part(images, fold_in(keys_B, position), amount, pixels)
    return images


for _transform in (flip, crop, cutout, rotate, brightness, contrast, saturation, jitter):
    register(_transform.__name__, _transform)


def example_means(images: Tensor, index_B: Tensor) -> Tensor:
    """The mean of each image's values, float64 [B], each value times a weight in [0, 1) that the example's number in
    `index_B`, int64 [B], and the value's place decide."""
    values = images.flatten(1).double()
    weights = uniform(example_keys(0, 0, index_B)[:, None], _rows(values.shape[1], images), torch.float64)
    return _row_sums(values * weights) / values.shape[1]


def whole(keys_B: Tensor, draw: int, count: int) -> Tensor:
    """Whole numbers from 0 to before `count` (below 2³¹), int64 [B]: the same on every device and in every
    precision, each as likely as any other up to count / 2³²."""
    return (((bits(keys_B, draw) >> 32) & 0xFFFFFFFF) * count) >> 32


def _factor(keys_B: Tensor, amount: float, images: Tensor) -> Tensor:
    """Even over 1 ± `amount`, [B, 1, 1, 1]."""
    return _each(1 + amount * (2 * uniform(keys_B, 0, images.dtype) - 1))


def _blended(images: Tensor, others: Tensor, factor: Tensor) -> Tensor:
    return factor * images + (1 - factor) * others


def _grey(images: Tensor) -> Tensor:
    """[B, 1, H, W]. Of other than three channels, their mean."""
    channels = images.shape[1]
    parts = GREY if channels == 3 else (1 / channels,) * channels
    weighted = [part * images[:, c : c + 1] for c, part in enumerate(parts)]
    return sum(weighted[1:], weighted[0])


def _row_sums(values: Tensor) -> Tensor:
    """Of values [B, n], added in pairs: torch's own sum is rounded by how many rows there are, and where one lies."""
    while (n := values.shape[1]) > 1:
        half = (n + 1) // 2
        values = values[:, :half] + F.pad(values[:, half:], (0, 2 * half - n))
    return values[:, 0]


def _cos_sin(angle: Tensor) -> tuple[Tensor, Tensor]:
    """Taylor's polynomials, of angles up to π, to the last digits of float64: multiplications and additions alone,
    which are rounded alike at every place in memory and on every device."""
    square = angle * angle
    cos, sin = torch.ones_like(angle), torch.ones_like(angle)
    for n in range(28, 0, -2):
        cos = 1 - cos * square * (1 / (n * (n - 1)))
        sin = 1 - sin * square * (1 / (n * (n + 1)))
    return cos, sin * angle


def _each(values_B: Tensor) -> Tensor:
    """[B, 1, 1, 1], beside images."""
    return values_B[:, None, None, None]


def _filled(pixels: Pixels) -> Tensor:
    return pixels.fill[:, None, None]


def _rows(count: int, images: Tensor) -> Tensor:
    return torch.arange(count, device=images.device)


def _within(positions: Tensor, count: int) -> Tensor:
    return (positions >= 0) & (positions < count)
