"""Images of one's own as targets: from a file's bytes to the data set's kind of image. No torch.

A prepared image is kept with its run as `uploads/<id>.png`, its id the first 16 hexadecimal digits of the
file's SHA-256: the name says what the content must be, and no name of a person's file touches the disk. The
target image:<id>:<label> asks for the effect on that image with that label.
"""

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine import files
from engine.datasets import raster
from engine.datasets.decode import ImageForm, decode
from engine.errors import ConfigError, DataError, IntegrityError
from engine.runs.run import Run

ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Prepared:
    """`image` uint8 [H, W, C], as the data set's; `done`: a sentence for each thing that was done to it."""

    image: np.ndarray
    done: tuple[str, ...]


def is_light(content: bytes) -> bool:
    """Is the file's border brighter than middle grey? Then the image is one to invert for a data set on black."""
    image = raster.decode(content).image
    grey = np.asarray(image.convert("RGBA").convert("L").resize((32, 32)), np.float64)
    return float(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]]).mean()) > 127


def thumbnail(content: bytes) -> bytes:
    """PNG of the file, upright and small, for a look beside what is made of it."""
    picture = raster.decode(content).image.convert("RGBA")
    picture.thumbnail((320, 320))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def prepare(content: bytes, shape: tuple[int, int, int], invert: bool, form: ImageForm | None = None) -> Prepared:
    """Upright, opaque, of `shape` [H, W, C] (C of 1 or 3) and of eight bits a channel: as `form` says, which is that
    of the data set's own files; else shrunk, and then padded, over what is black in the end.

    `invert` is for dark things on a light ground, where the data set has light ones on black. Raises `DataError`
    for what is no image, is damaged, or would take too much (looked at before anything is decoded).
    """
    decoded = decode(content, form or ImageForm(*shape, "pad", (255, 255, 255) if invert else (0, 0, 0)))
    if not invert:
        return Prepared(decoded.image, decoded.notes)
    return Prepared(255 - decoded.image, (*decoded.notes, "Inverted: dark on light became light on dark."))


def png(image: np.ndarray) -> bytes:
    """PNG of a uint8 [H, W, C] image, C of 1 or 3: for the pages, and for what is kept."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def keep(run: Run, image: np.ndarray) -> str:
    """Keeps a prepared image with the run and returns its id."""
    content = png(image)
    name = _id(content)
    folder = Run.open(run.root, run.id).path / "uploads"
    with files.disk_errors(folder):
        folder.mkdir(exist_ok=True)
    files.write_bytes(folder / f"{name}.png", content)
    return name


def read(run: Run, name: str) -> np.ndarray:
    """uint8 [H, W, C]; `IntegrityError` where it is gone, or not what its id says."""
    from PIL import Image

    if not ID.fullmatch(name):
        raise ConfigError(f"«{name}» is no id of an image.", "Ids have 16 hexadecimal digits.")
    path: Path = run.path / "uploads" / f"{name}.png"
    remedy = "Upload the image again."
    content = files.read_bytes(path, remedy)
    if _id(content) != name:
        raise IntegrityError(f"{path} has changed since it was written.", remedy)
    try:
        raster.size_of(content)  # who sends a run may name any file by its own digest: a bomb is not decoded
        image = np.array(Image.open(io.BytesIO(content), formats=["PNG"]))
    except (DataError, OSError, ValueError) as error:
        raise IntegrityError(f"{path} is no image that was kept here ({error}).", remedy) from error
    return image[..., None] if image.ndim == 2 else image


def _id(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
