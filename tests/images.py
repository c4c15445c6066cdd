"""Small folders of images for tests, and a real one: `tools.emoji`."""

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools import emoji as real


def picture(seed: int, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> Image.Image:
    """Noise, another for each seed."""
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8), mode)


def folder(root: Path, classes: dict[str, int], size: tuple[int, int] = (12, 10), mode: str = "RGB") -> Path:
    """ROOT/CLASS/n.png, so many of each class; no two images are the same."""
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        first = zlib.crc32(os.fsencode(root / name))
        for number in range(count):
            picture(first + number, size, mode).save(root / name / f"{number:03d}.png")
    return root


def emoji(root: Path, most: int | None = None) -> Path:
    """`tools.emoji.write`; skips the test where npm is not there or cannot fetch the package."""
    try:
        return real.write(root, most)
    except real.UnavailableError as error:
        pytest.skip(str(error))
