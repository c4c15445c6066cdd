"""Pictures as people have them, as the uint8 images [N, H, W, 1 or 3] of a data set, written piece by piece.

bytes       uint8 [N, H, W], [N, C, H, W] or [N, H, W, C], C of 1 or 3
floats      likewise, from 0 to 1
a list      of Pillow's images or arrays of one size, or of file names: files of other sizes are cropped and resized
            as those of a folder are (`engine.datasets.decode`)
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine import files
from engine.datasets import decode, raster
from engine.datasets.base import PIECE
from engine.datasets.decode import ImageForm
from engine.errors import ConfigError, DataError
from engine.library.inputs import CHANNELS, may_be_channels, unmasked

ROUNDING = 1e-6  # beyond 0 and 1, of floats that were computed


def write(path: Path, pictures: Any, n: int, what: str, form: ImageForm | None = None) -> ImageForm:
    """Writes n pictures as an .npy file, and returns what each of them is.

    `what` names the argument in errors; `form` is that of the other split, or of the model's inputs, which files are
    brought to. Raises `ConfigError` for pictures of another number, size or kind, `DataError` for a file that is no
    image, and `StorageError` where the file cannot be written.
    """
    if not isinstance(pictures, Tensor | np.ndarray | list | tuple):
        raise ConfigError(
            f"`{what}` is a {type(pictures).__name__}.", "Give an array, a list of Pillow's images, or file names."
        )
    if len(pictures) != n:
        raise ConfigError(f"`{what}` has {len(pictures)} pictures, and there are {n} labels.", "Give each label one.")
    first, pieces = _pieces(pictures, what, form)
    shape = (n, first.height, first.width, first.channels)
    write_array(path, shape, np.dtype(np.uint8), pieces)
    return first


def write_array(path: Path, shape: tuple[int, ...], dtype: np.dtype, pieces: Iterator[np.ndarray]) -> None:
    """Writes rows of an .npy file as they come; `path` is in a folder that is not yet in its place."""
    with files.disk_errors(path), path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for piece in pieces:
            file.write(np.ascontiguousarray(piece, dtype).data)
        file.flush()
        os.fsync(file.fileno())


def rows(tensor: "Tensor | np.ndarray") -> Iterator[np.ndarray]:
    """Consecutive rows of [N, ...] as arrays, about `PIECE` bytes at a time."""
    each = max(1, int(np.prod(tensor.shape[1:])) * (tensor.element_size() if isinstance(tensor, Tensor) else 8))
    step = max(1, PIECE // each)
    for start in range(0, len(tensor), step):
        piece = tensor[start : start + step]
        yield piece.detach().cpu().numpy() if isinstance(piece, Tensor) else piece


def _pieces(pictures: Any, what: str, form: ImageForm | None) -> tuple[ImageForm, Iterator[np.ndarray]]:
    if isinstance(pictures, np.ndarray):
        pictures = unmasked(pictures, f"`{what}`")
    if isinstance(pictures, Tensor | np.ndarray):
        axis = channel_axis(tuple(pictures.shape[1:]), what)
        first = _channels_last(next(rows(pictures[:1])), axis)
        return _form_of(first), (_bytes(_channels_last(piece, axis), what, 0) for piece in rows(pictures))
    if all(isinstance(each, str | Path) for each in pictures):
        form = form or _form_of_file(Path(pictures[0]))
        return form, (_decoded(Path(path), form)[None] for path in pictures)
    form = _form_of(_picture(pictures[0], what, 0))
    return form, _of_one_size(pictures, what, form)


def _of_one_size(pictures: Sequence[Any], what: str, form: ImageForm) -> Iterator[np.ndarray]:
    for i, each in enumerate(pictures):
        picture = _picture(each, what, i)
        if _form_of(picture) != form:
            raise ConfigError(
                f"`{what}`: picture {i} is {list(picture.shape[1:])}, and the first {form.height} × {form.width} with "
                f"{form.channels} channels.",
                "Bring all to one size and mode: image.convert('RGB').resize((width, height)).",
            )
        yield picture


def _picture(each: Any, what: str, i: int) -> np.ndarray:
    """uint8 [1, H, W, C] of one picture in a list."""
    if hasattr(each, "getbands") and each.mode not in ("L", "RGB"):  # an image of Pillow's
        raise ConfigError(f"`{what}`: picture {i} is of mode {each.mode}.", "Convert it: image.convert('RGB').")
    if isinstance(each, np.ndarray):
        each = unmasked(each, f"`{what}`: picture {i}")
    array = each.detach().cpu().numpy() if isinstance(each, Tensor) else np.asarray(each)
    if array.dtype.kind not in "fu" or array.ndim not in (2, 3):
        raise ConfigError(
            f"`{what}`: picture {i} is a {type(each).__name__}.", "Give arrays, Pillow's images, or file names alone."
        )
    return _bytes(_channels_last(array[None], channel_axis(array.shape, what)), what, i)


def channel_axis(shape: tuple[int, ...], what: str) -> int | None:
    """Where the channels of one picture [H, W], [C, H, W] or [H, W, C] are: 0, 2, or None where it has none."""
    if len(shape) == 2:
        return None
    first, last = may_be_channels(shape)
    if first == last:
        why = "may have its channels first or last" if first else "is none of [H, W], [1 or 3, H, W], [H, W, 1 or 3]"
        raise ConfigError(
            f"`{what}`: a picture of shape {list(shape)} {why}.", "Give pictures as uint8 [N, H, W, 3], or as a list."
        )
    return 0 if first else 2


def _channels_last(piece: np.ndarray, axis: int | None) -> np.ndarray:
    return piece[..., None] if axis is None else piece if axis == 2 else np.moveaxis(piece, 1, -1)


def _bytes(piece: np.ndarray, what: str, first: int) -> np.ndarray:
    if piece.dtype == np.uint8:
        return piece
    if piece.dtype.kind != "f" or not (np.min(piece) >= -ROUNDING and np.max(piece) <= 1 + ROUNDING):
        said = f"of {piece.dtype}"
        if piece.dtype.kind == "f":
            said = f"from {np.min(piece):.3g} to {np.max(piece):.3g}"
        raise ConfigError(
            f"`{what}` has values {said}: no pictures in bytes, nor in floats from 0 to 1.",
            "Give the pictures as they were before they were standardised.",
        )
    return np.rint(np.clip(piece, 0, 1) * 255).astype(np.uint8)


def _form_of(picture: np.ndarray) -> ImageForm:
    height, width, channels = picture.shape[1:]
    return ImageForm(height, width, channels)


def _form_of_file(path: Path) -> ImageForm:
    width, height = raster.size_of(_content(path))
    return ImageForm(height, width, 3)


def _decoded(path: Path, form: ImageForm) -> np.ndarray:
    try:
        return decode.decode(_content(path), form).image
    except DataError as error:
        raise DataError(f"{path}: {error.what}", error.remedy) from None


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).", "Correct the file's name.") from None


def of_floats(inputs: Tensor) -> bool:
    """Whether floats [N, ...] are pictures from 0 to 1 with their channels first."""
    if inputs.dim() != 4 or inputs.shape[1] not in CHANNELS or inputs.shape[3] in CHANNELS:
        return False
    return all(bool((piece >= 0).all() and (piece <= 1).all()) for piece in inputs.split(256))


def as_floats(images: np.ndarray, dtype: torch.dtype) -> Tensor:
    """uint8 [N, H, W, C] as the floats [N, C, H, W] that pictures in bytes become (`engine.library.inputs`)."""
    floats = torch.empty((len(images), images.shape[3], *images.shape[1:3]), dtype=dtype)
    floats.numpy()[...] = images.transpose(0, 3, 1, 2)
    return floats.div_(255)
