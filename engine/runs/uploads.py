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
from typing import Any

import numpy as np

from engine import files
from engine.errors import ConfigError, IntegrityError
from engine.runs import raster
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


def prepare(content: bytes, shape: tuple[int, int, int], invert: bool) -> Prepared:
    """Upright, opaque, of `shape` [H, W, C] (C of 1 or 3) and of eight bits a channel: shrunk, and then padded.

    `invert` is for dark things on a light ground, where the data set has light ones on black. Raises `DataError`
    for what is no image, is damaged, or would take too much (looked at before anything is decoded).
    """
    from PIL import Image, ImageOps

    decoded = raster.decode(content)
    picture, done = decoded.image, list(decoded.notes)
    ground = 255 if invert else 0  # black in the end
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        below = Image.new("RGBA", picture.size, (ground, ground, ground, 255))
        picture = Image.alpha_composite(below, picture)
        done.append(f"Transparent parts laid over {'white' if invert else 'black'}.")
    height, width, channels = shape
    mode, name = ("L", "grey") if channels == 1 else ("RGB", "colour")
    if channels == 1 and _has_colours(picture):
        done.append("Colours turned to grey (ITU-R 601 luma).")
    picture = picture.convert(mode)
    oblong = decoded.size[0] * height != decoded.size[1] * width
    if oblong:
        done.append(f"Padded with {'white' if invert else 'black'} to {'a square' if width == height else 'shape'}.")
    if decoded.size != (width, height):
        done.append(f"Resized from {decoded.size[0]:,} × {decoded.size[1]:,} to {width} × {height} pixels (Lanczos).")
        scale = min(width / decoded.size[0], height / decoded.size[1])
        inner = [max(1, round(side * scale)) for side in decoded.size] if oblong else [width, height]
        picture = picture.resize((inner[0], inner[1]), Image.Resampling.LANCZOS, reducing_gap=3.0)
        if oblong:
            whole = Image.new(mode, (width, height), ground if channels == 1 else (ground,) * 3)
            whole.paste(picture, ((width - inner[0]) // 2, (height - inner[1]) // 2))
            picture = whole
    if invert:
        picture = ImageOps.invert(picture)
        done.append("Inverted: dark on light became light on dark.")
    return Prepared(
        np.array(picture, np.uint8).reshape(shape), tuple(done) or (f"Taken as it is: {width} × {height}, {name}.",)
    )


def _has_colours(picture: Any) -> bool:
    red, green, blue = picture.convert("RGB").split()
    return red.tobytes() != green.tobytes() or green.tobytes() != blue.tobytes()


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
    try:
        content = path.read_bytes()
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read ({error.strerror}).", remedy) from None
    if _id(content) != name:
        raise IntegrityError(f"{path} has changed since it was written.", remedy)
    image = np.array(Image.open(io.BytesIO(content), formats=["PNG"]))
    return image[..., None] if image.ndim == 2 else image


def _id(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
