"""What people bring to a training, as the tensors that it becomes: inputs [N, ...] in floats, labels int64 [N].

    floats            float32 or float64, as the model takes them: a tensor, an array, or a list of either
    bytes             uint8 pictures become floats from 0 to 1 (x / 255), channels first:
                      [N, H, W] → [N, 1, H, W];  [N, C, H, W] stays;  [N, H, W, C] → [N, C, H, W],  C of 1 or 3
    pictures          a list of Pillow's images of one size, grey (L) or colour (RGB): as bytes
    Dataset           of torch, read once by index, with its labels; what it gives must be the same at every reading
    DataLoader        its data set, in the data set's order

Results are those of the floats that they become, bit for bit. Each picture is converted into the one tensor that is
made, so that no further copy of the data is held. What can be read in two ways is refused, with how to say which.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
    default_convert,
)

from engine.config import Recipe
from engine.errors import ConfigError

Inputs: TypeAlias = Tensor | np.ndarray | Sequence[Any] | Dataset[Any] | DataLoader[Any]

Labels: TypeAlias = Tensor | np.ndarray | Sequence[int]

CHANNELS = (1, 3)  # of pictures

READ_AGAIN = 32  # readings that are compared with the first of the same example: a flip of even odds escapes one in 2³²

NOT_RANDOM = (
    "Take the random transforms out of the data set: a replay must see what the training saw. Vary the images by the "
    'recipe, such as Recipe(augment="flip,crop:4").'
)


@dataclass(frozen=True, eq=False)
class Given:
    """`own`: the inputs were made here, and nobody else holds them."""

    inputs: Any
    labels: Any
    own: bool = False


def given(inputs: Any, labels: Any = None, dtype: torch.dtype | None = None) -> Given:
    """Inputs and labels as tensors; bytes in `dtype`, float32 where not given.

    What is no kind of these is returned as it is, for `engine.api` to refuse. Raises `ConfigError` for what is of a
    known kind and cannot be read in one way alone.
    """
    if isinstance(inputs, DataLoader):
        inputs = _dataset_of(inputs)
    if isinstance(inputs, Dataset):
        if labels is not None:
            remedy = f"Write recipe={labels!r:.40}." if isinstance(labels, Recipe) else "Leave `labels` out."
            raise ConfigError("A Dataset has its own labels, and `labels` was given too.", remedy)
        return _of_dataset(inputs, dtype)
    if labels is None:
        raise ConfigError("`labels` is missing.", "Give one whole number an input, or a torch Dataset that has them.")
    if isinstance(labels, Recipe):
        raise ConfigError(
            "`labels` is a Recipe.", "The labels come before the recipe: train(model, inputs, labels, …)."
        )
    if isinstance(inputs, list | tuple):
        rows = _Rows(len(inputs), dtype)
        for i, example in enumerate(inputs):
            rows.put(i, example)
        return Given(rows.finished(), labels_of(labels), own=True)
    return _of_array(inputs, labels_of(labels), dtype)


def labels_of(labels: Any) -> Any:
    """int64 [N] of whole numbers of any type; anything else as it is, for `engine.api` to refuse."""
    if isinstance(labels, list | tuple) and labels:
        if any(isinstance(each, str) for each in labels):
            raise ConfigError(
                "`labels` are texts.",
                "Number the classes: classes, labels = numpy.unique(labels, return_inverse=True).",
            )
        return torch.tensor([_label(each, f"label {i}") for i, each in enumerate(labels)], dtype=torch.int64)
    if isinstance(labels, np.ndarray) and labels.dtype.kind in "iu":
        return torch.from_numpy(unmasked(labels, "`labels`").astype(np.int64))
    if isinstance(labels, Tensor) and labels.layout == torch.strided and not labels.is_meta and _is_whole(labels.dtype):
        return labels.to(torch.int64)
    return labels


def numbers_of(values: Any) -> Any:
    """Weights as a tensor: those of an array or a list too; anything else as it is."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiu":
        return torch.from_numpy(unmasked(values, "`weights`").astype(np.float64))
    if isinstance(values, list | tuple) and all(type(each) in (int, float) for each in values):
        return torch.tensor(values, dtype=torch.float64)
    return values


def _is_whole(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)


# -- arrays


def unmasked(array: np.ndarray, what: str) -> np.ndarray:
    """The array itself. Raises `ConfigError` for one that is masked somewhere: whoever reads it would take what lies
    below the mask for data."""
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise ConfigError(
            f"{what} is masked in {int(np.ma.count_masked(array)):,} of {array.size:,} places.",
            "Leave those images or targets out, or say what stands there: array.filled(VALUE).",
        )
    return np.asarray(array)


def _of_array(inputs: Any, labels: Any, dtype: torch.dtype | None) -> Given:
    if isinstance(inputs, np.ndarray):
        inputs = unmasked(inputs, "`inputs`")
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind == "f" and inputs.dtype.itemsize in (4, 8):
        floats = torch.empty(inputs.shape, dtype=torch.float32 if inputs.dtype.itemsize == 4 else torch.float64)
        floats.numpy()[...] = inputs  # also of a map that cannot be written, or in another order of bytes
        return Given(floats, labels, own=True)
    is_bytes = isinstance(inputs, np.ndarray) and inputs.dtype == np.uint8
    if isinstance(inputs, np.ndarray) and not is_bytes:
        raise ConfigError(
            f"`inputs` is an array {list(inputs.shape)} of {inputs.dtype}.",
            "Give floats as the model takes them, inputs.astype(numpy.float32), or pictures in uint8.",
        )
    if is_bytes or (isinstance(inputs, Tensor) and inputs.dtype == torch.uint8 and not inputs.is_meta):
        return Given(_of_bytes(inputs, dtype or torch.float32), labels, own=True)
    return Given(inputs, labels)


def _of_bytes(pictures: "np.ndarray | Tensor", dtype: torch.dtype) -> Tensor:
    """uint8 [N, H, W], [N, C, H, W] or [N, H, W, C] as floats [N, C, H, W] from 0 to 1."""
    axis = _channel_axis(tuple(pictures.shape[1:]), "`inputs` [N, …]")
    if axis is None:
        pictures = pictures[:, None]
    elif axis == 2:
        pictures = pictures.transpose(0, 3, 1, 2) if isinstance(pictures, np.ndarray) else pictures.movedim(-1, 1)
    where = pictures.device if isinstance(pictures, Tensor) else "cpu"
    floats = torch.empty(tuple(pictures.shape), dtype=dtype, device=where)
    if isinstance(pictures, np.ndarray):
        floats.numpy()[...] = pictures
    else:
        floats.copy_(pictures)
    return floats.div_(255)


def may_be_channels(shape: tuple[int, ...]) -> tuple[bool, bool]:
    """Whether the first axis, and the last, of one picture may be its channels; neither where it has not three axes."""
    return (shape[0] in CHANNELS, shape[2] in CHANNELS) if len(shape) == 3 else (False, False)


def _channel_axis(shape: tuple[int, ...], what: str) -> int | None:
    """Of one picture in bytes, [H, W], [C, H, W] or [H, W, C]: 0 or 2; None where it has no channels."""
    if len(shape) == 2:
        return None
    first, last = may_be_channels(shape)
    if first != last:
        return 0 if first else 2
    if first:
        raise ConfigError(
            f"{what} of {list(shape)} in uint8 may have its channels first or last.",
            "Say which by floats: torch.as_tensor(inputs).float() / 255 for channels first, and .movedim(-1, 1) "
            "on it for channels last.",
        )
    raise ConfigError(
        f"{what} of {list(shape)} in uint8 is no picture [H, W], [1 or 3, H, W] or [H, W, 1 or 3].",
        "Give floats as the model takes them: torch.as_tensor(inputs).float().",
    )


# -- examples one by one


class _Rows:
    """The one tensor that N examples are written into. The first decides what all are: bytes or floats, their shape."""

    def __init__(self, n: int, dtype: torch.dtype | None):
        self.n, self.dtype = n, dtype
        self.floats: Tensor = torch.empty(0)
        self.form: tuple = ()  # of each example, as it was given
        self.axis: int | None = None

    @property
    def is_bytes(self) -> bool:
        return bool(self.form) and self.form[1] == torch.uint8

    def put(self, i: int, example: Any) -> None:
        value = _value(example, i)
        if i == 0:
            self._begin(value)
        elif (form := (tuple(value.shape), value.dtype)) != self.form:
            raise ConfigError(
                f"Input {i} is {_said(form)}, and the first is {_said(self.form)}.",
                "Bring all to one size and type: image.resize((width, height)), image.convert('RGB').",
            )
        self.floats[i].copy_(self._moved(value))

    def holds(self, i: int, example: Any) -> bool:
        """Whether an example that was read again is what was put."""
        value = _value(example, i)
        return (tuple(value.shape), value.dtype) == self.form and torch.equal(
            self.floats[i], self._moved(value).to(self.floats.dtype)
        )

    def finished(self) -> Tensor:
        return self.floats.div_(255) if self.is_bytes else self.floats

    def _begin(self, value: Tensor) -> None:
        self.form = tuple(value.shape), value.dtype
        if self.is_bytes:
            self.axis = _channel_axis(tuple(value.shape), "An input")
        elif value.dtype not in (torch.float32, torch.float64):
            raise ConfigError(
                f"The inputs are {_said(self.form)}.", "Give floats as the model takes them, or pictures in uint8."
            )
        dtype = self.dtype or torch.float32 if self.is_bytes else value.dtype
        self.floats = torch.empty((self.n, *self._moved(value).shape), dtype=dtype)

    def _moved(self, value: Tensor) -> Tensor:
        if not self.is_bytes or self.axis == 0:
            return value
        return value[None] if self.axis is None else value.movedim(-1, 0)


def _value(example: Any, i: int) -> Tensor:
    """One example as a tensor of the type that it has."""
    if isinstance(example, Tensor):
        return example.detach()
    if isinstance(example, np.ndarray) and example.dtype.kind in "fiub":
        return torch.from_numpy(np.array(unmasked(example, f"Input {i}"), example.dtype.newbyteorder("=")))
    mode = getattr(example, "mode", None)
    if mode is not None and hasattr(example, "getbands"):  # an image of Pillow's, which need not be loaded here
        if mode not in ("L", "RGB"):
            raise ConfigError(
                f"Input {i} is an image of mode {mode}.", "Make it grey or colour: image.convert('L') or ('RGB')."
            )
        return torch.from_numpy(np.array(example, np.uint8))
    if isinstance(example, str):
        raise ConfigError(
            f"Input {i} is a text.", "Open the files: [PIL.Image.open(path).convert('RGB') for path in paths]."
        )
    raise ConfigError(
        f"Input {i} is a {type(example).__name__}.",
        "Give tensors, arrays or Pillow's images; of lists of numbers, numpy.asarray(inputs, numpy.float32).",
    )


def _said(form: tuple) -> str:
    shape, dtype = form
    return f"{list(shape)} of {str(dtype).removeprefix('torch.')}"


def _label(value: Any, what: str) -> int:
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        remedy = "Give whole numbers from 0."
        if isinstance(value, Tensor | np.ndarray | list | tuple):
            remedy = "Give the number of its class; of one-hot labels, labels.argmax(1)."
        raise ConfigError(f"{what[0].upper()}{what[1:]} is a {type(value).__name__}, no whole number.", remedy)
    return int(value)


# -- data sets of torch


def _dataset_of(loader: "DataLoader[Any]") -> "Dataset[Any]":
    """A loader's data set, where the loader changes nothing but the order. Says so where it shuffles."""
    if isinstance(loader.dataset, IterableDataset):
        return loader.dataset  # refused there
    sampler = loader.sampler
    if loader.batch_sampler is not None and type(loader.batch_sampler) is not BatchSampler:
        sampler = loader.batch_sampler
    shuffles = type(sampler) is RandomSampler and not sampler.replacement and len(sampler) == len(sampler.data_source)
    if not shuffles and type(sampler) is not SequentialSampler:
        raise ConfigError(
            f"The loader draws its examples by a {type(sampler).__name__}.",
            "Give its data set, loader.dataset; which examples count how much is said by `weights`.",
        )
    if loader.collate_fn not in (default_collate, default_convert):
        raise ConfigError(
            "The loader has a collate_fn of its own, which may change the examples.",
            "Give a data set that yields the examples as the model takes them.",
        )
    if shuffles:
        warnings.warn(
            "The loader shuffles: examples are numbered in the order of its data set, and the recipe's seed decides "
            "the order of the training.",
            stacklevel=5,
        )
    return loader.dataset


def _of_dataset(data: "Dataset[Any]", dtype: torch.dtype | None) -> Given:
    if isinstance(data, IterableDataset):
        raise ConfigError(
            "An IterableDataset has no examples by number.", "Give a Dataset with __getitem__ and __len__, or tensors."
        )
    if isinstance(data, TensorDataset):
        if len(data.tensors) != 2:
            raise ConfigError(
                f"The TensorDataset has {len(data.tensors)} tensors.", "Give one of two: inputs and labels."
            )
        return given(*data.tensors, dtype=dtype)
    try:
        n = len(data)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        raise ConfigError("The Dataset has no length.", "Give it a __len__.") from None
    if n == 0:
        raise ConfigError("The Dataset has no example.", "Give at least one.")
    rows, labels = _Rows(n, dtype), torch.empty(n, dtype=torch.int64)
    for i in range(n):
        example, label = _pair(data[i], i)
        rows.put(i, example)
        labels[i] = _label(label, f"the label of example {i}")
        for _ in range(-(-READ_AGAIN // n) if i < READ_AGAIN else 0):
            again, its_label = _pair(data[i], i)
            if not rows.holds(i, again) or _label(its_label, f"the label of example {i}") != int(labels[i]):
                raise ConfigError(f"Example {i} of the data set is another one when it is read again.", NOT_RANDOM)
    return Given(rows.finished(), labels, own=True)


def _pair(example: Any, i: int) -> tuple[Any, Any]:
    if isinstance(example, tuple | list) and len(example) == 2:
        return example[0], example[1]
    what = f"{len(example)} things" if isinstance(example, tuple | list) else f"a {type(example).__name__}"
    raise ConfigError(
        f"Example {i} of the data set is {what}, not an input with its label.",
        "Wrap the data set in one whose __getitem__ returns (input, label).",
    )
