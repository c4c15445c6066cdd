"""Images of one's own as targets: from a file's bytes to the data set's kind of image. No torch.

A prepared image is kept with its run as `uploads/<id>.png`, its id the first 16 hexadecimal digits of the
file's SHA-256: the name says what the content must be, and no name of a person's file touches the disk. The
target image:<id>:<label> asks for the effect on that image with that label.
"""

import hashlib
import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine import files
from engine.errors import ConfigError, DataError, IntegrityError
from engine.runs.run import Run

MOST_PIXELS = 40_000_000

ID = re.compile(r"[0-9a-f]{16}")

KINDS = "Take a PNG, JPEG, WebP, BMP, TIFF or GIF file."


@dataclass(frozen=True)
class Prepared:
    """`image` uint8 [H, W, C], as the data set's; `done`: a sentence for each thing that was done to it."""

    image: np.ndarray
    done: tuple[str, ...]


def is_light(content: bytes) -> bool:
    """Is the file's border brighter than middle grey? Then the image is one to invert for a data set on black."""
    grey = np.asarray(_opened(content)[0].convert("RGBA").convert("L").resize((32, 32)), np.float64)
    return float(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]]).mean()) > 127


def thumbnail(content: bytes) -> bytes:
    """PNG of the file, upright and small, for a look beside what is made of it."""
    from PIL import ImageOps

    picture = _eight_bits(ImageOps.exif_transpose(_opened(content)[0]), []).convert("RGBA")
    picture.thumbnail((320, 320))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def prepare(content: bytes, shape: tuple[int, int, int], invert: bool) -> Prepared:
    """Upright, opaque, square, of `shape` [H, W, C] (C of 1 or 3) and of eight bits a channel.

    `invert` is for dark things on a light ground, where the data set has light ones on black. Raises `DataError`
    for what is no image, is damaged, or has more than `MOST_PIXELS` (looked at before anything is decoded).
    """
    from PIL import Image, ImageOps

    picture, done = _opened(content)
    ground = 255 if invert else 0  # black in the end
    turned = ImageOps.exif_transpose(picture)
    if turned.size != picture.size or picture.getexif().get(0x0112, 1) != 1:
        done.append("Turned upright, as the camera noted (EXIF).")
    picture = _eight_bits(turned, done)
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
    if picture.width * height != picture.height * width:
        side = max(picture.size)
        picture = ImageOps.pad(picture, (side, side), color=ground if channels == 1 else (ground,) * 3)
        done.append(f"Padded with {'white' if invert else 'black'} to a square.")
    if picture.size != (width, height):
        done.append(f"Resized from {picture.width:,} × {picture.height:,} to {width} × {height} pixels (Lanczos).")
        picture = picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    if invert:
        picture = ImageOps.invert(picture)
        done.append("Inverted: dark on light became light on dark.")
    return Prepared(
        np.array(picture, np.uint8).reshape(shape), tuple(done) or (f"Taken as it is: {width} × {height}, {name}.",)
    )


def _opened(content: bytes):
    """The first frame, whole, and what was said of it."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is the stricter one
            picture = Image.open(io.BytesIO(content))
    except Image.DecompressionBombError as error:
        raise DataError(
            f"The image is too large ({error}).", f"Shrink it to {MOST_PIXELS // 10**6} megapixels or fewer."
        ) from None
    except (OSError, ValueError, SyntaxError):  # what Pillow raises for headers that are none
        raise DataError("The file is no image that can be read.", KINDS) from None
    pixels = picture.width * picture.height
    if pixels > MOST_PIXELS:
        raise DataError(
            f"The image has {pixels / 1e6:.0f} megapixels ({picture.width:,} × {picture.height:,}).",
            f"Shrink it to {MOST_PIXELS // 10**6} megapixels or fewer.",
        )
    done = [f"The first of {picture.n_frames} frames."] if getattr(picture, "n_frames", 1) > 1 else []
    try:
        picture.load()
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise DataError(f"The image is damaged ({error}).", "Save it again, or take another file.") from None
    return picture, done


def _has_colours(picture) -> bool:
    red, green, blue = picture.convert("RGB").split()
    return red.tobytes() != green.tobytes() or green.tobytes() != blue.tobytes()


def _eight_bits(picture, done: list[str]):
    from PIL import Image

    if picture.mode == "F":
        raise DataError("The image has floating-point pixels, whose range nobody can know.", "Save it as an 8-bit PNG.")
    if not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise DataError("The image has more than 16 bits a pixel.", "Save it as an 8-bit PNG.")
    done.append("16 bits a pixel scaled to 8.")
    return Image.fromarray(np.round(values / 257).astype(np.uint8))


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
    image = np.array(Image.open(io.BytesIO(content)))
    return image[..., None] if image.ndim == 2 else image


def _id(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
