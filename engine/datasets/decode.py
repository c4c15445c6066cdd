"""From a file's bytes to an image of a data set's kind: the one place where pictures become images.

`engine.datasets.raster` reads the file, whatever it is, without taking more memory than it should; here the picture is
laid over a ground where it is transparent, becomes grey or colour, and gets its size. Colour profiles are not applied.
"""

from dataclasses import dataclass

import numpy as np

from engine.datasets import raster

EXTENSIONS = frozenset(".png .apng .jpg .jpeg .jpe .jfif .webp .bmp .dib .tif .tiff .gif".split())

GAP = 3  # times the final size that shrinking by whole pixels leaves at least, for Lanczos to do the rest

ENOUGH = 1024  # pixels of the shorter side that are enough for that, whatever the final size


@dataclass(frozen=True)
class ImageForm:
    """What kind of image a data set has. `channels` is 1 (grey) or 3 (RGB); `fit` is crop, pad or stretch;
    `ground` is the colour under transparent parts and beside padded ones."""

    height: int
    width: int
    channels: int
    fit: str = "crop"
    ground: tuple[int, int, int] = (255, 255, 255)


@dataclass(frozen=True)
class Decoded:
    """`image` uint8 [H, W, C]; `notes`: a sentence for each thing that was done to the file's picture."""

    image: np.ndarray
    notes: tuple[str, ...]


def decode(content: bytes, form: ImageForm) -> Decoded:
    """The first frame of an image file in the data set's `form`. Raises `DataError` as `raster.decode`."""
    from PIL import Image

    size = (form.width, form.height)
    picture = raster.decode(content, 0 if form.fit == "pad" else max(*size, min(GAP * max(size), ENOUGH)))
    notes, ground = list(picture.notes), _colour_name(form.ground)
    image = picture.image
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*form.ground, 255)), image.convert("RGBA"))
        notes.append(f"Transparent parts laid over {ground}.")
    mode, kind = ("L", "grey") if form.channels == 1 else ("RGB", "colour")
    if form.channels == 1 and image.mode != "L" and has_colours(np.asarray(image)):
        notes.append("Colours turned to grey (ITU-R 601 luma).")
    image = image.convert("RGB").convert(mode) if image.mode not in ("L", mode) else image.convert(mode)
    box, inner = _geometry(picture.size, form)
    part = (box[2] - box[0], box[3] - box[1])
    if part != picture.size:
        notes.append(f"The middle {part[0]:,} × {part[1]:,} of {picture.size[0]:,} × {picture.size[1]:,} pixels.")
    oblong = form.fit == "pad" and part[0] * form.height != part[1] * form.width
    if oblong:
        notes.append(f"Padded with {ground} to {'a square' if form.width == form.height else 'shape'}.")
    if part != size:
        notes.append(f"Resized from {part[0]:,} × {part[1]:,} to {form.width} × {form.height} pixels (Lanczos).")
    if inner != part:
        # In the picture's own pixels, which are fewer where it was shrunk already.
        scale = (picture.extent[0] / picture.size[0], picture.extent[1] / picture.size[1])
        inside = (box[0] * scale[0], box[1] * scale[1], box[2] * scale[0], box[3] * scale[1])
        image = image.resize(inner, Image.Resampling.LANCZOS, box=inside, reducing_gap=GAP)
    elif part != picture.size:
        image = image.crop(box)
    if inner != size:
        whole = Image.new(mode, size, _ground(form))
        whole.paste(image, ((form.width - inner[0]) // 2, (form.height - inner[1]) // 2))
        image = whole
    pixels = np.array(image, np.uint8).reshape(form.height, form.width, form.channels)
    return Decoded(pixels, tuple(notes) or (f"Taken as it is: {form.width} × {form.height}, {kind}.",))


def has_colours(images: np.ndarray) -> bool:
    """Of uint8 [..., 3 or 4]: is there a pixel whose red, green and blue differ?"""
    red = images[..., 0]
    return images.ndim > 2 and bool((red != images[..., 1]).any() or (red != images[..., 2]).any())


def _geometry(size: tuple[int, int], form: ImageForm) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """The part of the picture that is shown (left, top, right, bottom), and its final width and height."""
    width, height = size
    if form.fit == "crop":
        part_width = min(width, max(1, round(height * form.width / form.height)))
        part_height = min(height, max(1, round(width * form.height / form.width)))
        left, top = (width - part_width) // 2, (height - part_height) // 2
        return (left, top, left + part_width, top + part_height), (form.width, form.height)
    if form.fit == "pad" and width * form.height != height * form.width:
        scale = min(form.width / width, form.height / height)
        return (0, 0, width, height), (max(1, round(width * scale)), max(1, round(height * scale)))
    return (0, 0, width, height), (form.width, form.height)


def _ground(form: ImageForm) -> int | tuple[int, int, int]:
    if form.channels == 3:
        return form.ground
    red, green, blue = form.ground
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16  # Pillow's ITU-R 601 luma


def _colour_name(ground: tuple[int, int, int]) -> str:
    names = {(255, 255, 255): "white", (0, 0, 0): "black"}
    return names.get(ground, "#{:02x}{:02x}{:02x}".format(*ground))
