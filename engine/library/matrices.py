"""Scores of another program as a matrix that is read piece by piece: rows [R, C] of numbers, whatever holds them.

    .npy            mapped, never whole in memory
    .safetensors    mapped; one matrix, or FILE:NAME where there are several (kronfluence: `all_modules`)
    .pt .pth        a tensor, or a dict of tensors, mapped by torch with weights_only: nothing is unpickled
    .csv .parquet   one row a line; a column «target» names the rows' targets; «index», and one without a name, number
                    the rows and are not read
    .npz            whole in memory, for it is compressed; refused with what it would take where that is not there
    an array, a tensor, a DataFrame, a list of rows

A matrix has one axis of targets and one of training images; which is which, `Fit` says. Everything else that is wrong
with numbers (text, objects, complex numbers, truth values, NaN, infinities) is refused with the place where it is.
"""

import csv
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch
from torch import Tensor

from engine import files, space
from engine.datasets.names import printable
from engine.errors import ConfigError, IntegrityError, StorageError
from engine.library.inputs import unmasked

if TYPE_CHECKING:
    import pandas as pd

PIECE = 16 << 20  # numbers that are read together: 64 MB of float32

ORDERS = ("targets", "training")  # what the rows are

SUFFIXES = (".npy", ".npz", ".safetensors", ".pt", ".pth", ".csv", ".parquet")

NOT_SCORES = ("index", "", "Unnamed: 0")  # columns of tables that number the rows

TARGET = "target"  # a column that names them

REMEDY = "Save the matrix with numpy.save(FILE, scores), as float32 [targets, training images]."


@dataclass(frozen=True, eq=False)
class Matrix:
    """`rows(start, stop)` reads float rows [stop − start, C]; forwards only where it is a text. `what` names it in
    errors; `targets` are the rows' names, where a table has them."""

    what: str
    shape: tuple[int, int]
    pieces: Callable[[int], Iterable[np.ndarray]]  # consecutive rows, so many at a time
    targets: tuple[str, ...] | None = None


def opened(scores: Any, what: str = "scores") -> Matrix:
    """Raises `ConfigError` for what is no matrix of real numbers, and `StorageError` where it does not fit into
    memory."""
    import pandas as pd

    if isinstance(scores, str | os.PathLike):
        return _of_file(os.fspath(scores))
    if isinstance(scores, pd.DataFrame):
        return _of_frame(scores, what)
    if not isinstance(scores, np.ndarray) and callable(getattr(scores, "to_pandas", None)):  # of pyarrow, polars
        return opened(scores.to_pandas(), what)
    if isinstance(scores, Tensor):
        return _of_tensor(scores, f"`{what}`")
    if isinstance(scores, dict):
        return opened(_only(scores, f"`{what}`"), what)
    if isinstance(scores, list | tuple):
        try:
            scores = np.asarray(scores)
        except ValueError:
            raise ConfigError(
                f"`{what}` has rows of different lengths.", "Give each target a score an image."
            ) from None
    if not isinstance(scores, np.ndarray):
        raise ConfigError(
            f"`{what}` is a {type(scores).__name__}.",
            f"Give an array or a tensor [targets, training images], or a file: {', '.join(SUFFIXES)}.",
        )
    return _of_array(scores, f"`{what}`")


def whole(values: Any, what: str, shape: tuple[int, int], axes: str) -> np.ndarray:
    """All of a small matrix, such as logits, as float32 of this shape, which `axes` names. Raises `ConfigError` for any
    other."""
    matrix = opened(values, what)
    if matrix.shape != shape:
        turned = " They seem to be transposed." if matrix.shape == shape[::-1] else ""
        raise ConfigError(
            f"{matrix.what} is {_sizes(matrix.shape)}, where {axes} are {_sizes(shape)}.{turned}",
            "Give a row an image, and a column a class in the order of the classes.",
        )
    result = np.empty(shape, np.float32)
    fill(result, matrix, "targets")
    return result


# -- what holds it


def _of_array(array: np.ndarray, what: str) -> Matrix:
    _check_kind(array.dtype, what)
    array = _two_axes(unmasked(array, what), what)
    rows, columns = array.shape

    def pieces(step: int) -> Iterator[np.ndarray]:
        return (array[start : start + step] for start in range(0, rows, step))

    return Matrix(what, (rows, columns), pieces)


def _of_tensor(tensor: Tensor, what: str) -> Matrix:
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_meta or tensor.is_quantized:
        raise ConfigError(
            f"{what} is a sparse, nested, quantized or empty tensor.", "Give a dense one: scores.to_dense()."
        )
    if tensor.dtype == torch.bool or tensor.dtype.is_complex:
        raise _not_real(str(tensor.dtype).removeprefix("torch."), what)
    tensor = _two_axes(tensor.detach(), what)

    def pieces(step: int) -> Iterator[np.ndarray]:
        return (_numbers(tensor[start : start + step], what) for start in range(0, len(tensor), step))

    return Matrix(what, (tensor.shape[0], tensor.shape[1]), pieces)


def _numbers(rows: Tensor, what: str) -> np.ndarray:
    """On the CPU; what NumPy has no type for, such as bfloat16 and float8, as float32."""
    try:
        known = not rows.is_floating_point() or rows.dtype in (torch.float32, torch.float64)
        return (rows if known else rows.float()).cpu().resolve_neg().numpy()
    except (TypeError, RuntimeError):
        raise _not_real(str(rows.dtype).removeprefix("torch."), what) from None


def _of_frame(frame: "pd.DataFrame", what: str) -> Matrix:
    names = list(frame.columns)  # two may be the same
    named = _one_of_targets([i for i, name in enumerate(names) if name == TARGET], f"`{what}`")
    numbers = frame.iloc[:, [i for i, name in enumerate(names) if name not in (*NOT_SCORES, TARGET)]]
    for name, dtype in zip(numbers.columns, numbers.dtypes, strict=True):
        if dtype.kind not in "fiu":
            raise ConfigError(
                f"The column {printable(str(name))!r:.60} of `{what}` holds {dtype}, no numbers.", "Leave it out."
            )
    if all(isinstance(dtype, np.dtype) for dtype in numbers.dtypes):
        array = numbers.to_numpy()
    else:  # types of pandas, in which what is missing is no NaN yet
        array = numbers.to_numpy(np.float64, na_value=np.nan)
    matrix = _of_array(array, f"`{what}`")
    targets = tuple(map(str, frame.iloc[:, named[0]])) if named else None
    return Matrix(matrix.what, matrix.shape, matrix.pieces, targets)


def _one_of_targets(named: list[int], what: str) -> list[int]:
    """The places of columns «target», of which there is one at most."""
    if len(named) > 1:
        raise ConfigError(f"{what} has {len(named)} columns «{TARGET}».", "Leave one, which names each row's target.")
    return named


def _of_file(text: str) -> Matrix:
    path, name = Path(files.expanded(text)), ""
    if not os.path.exists(path) and ":" in path.name:
        path, name = Path(str(path).rpartition(":")[0]), text.rpartition(":")[2]
    what = printable(str(path))[:300]
    if not os.path.isfile(path):  # nor where its name is too long, or holds a NUL
        raise ConfigError(f"There is no file {what}.", f"Name one that is there: {', '.join(SUFFIXES)}.")
    readers: dict[str, Callable[[Path, str, str], Matrix]] = dict(
        zip(SUFFIXES, (_npy, _npz, _safetensors, _torch, _torch, _csv, _parquet), strict=True)
    )
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"{what} is no file of a known kind.", f"Its name ends in one of {', '.join(SUFFIXES)}.")
    try:
        return reader(path, what, name)
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{what} cannot be read ({error}).", REMEDY) from None


def _npy(path: Path, what: str, name: str) -> Matrix:
    try:
        array = files.read_npy(Path(os.path.realpath(path)), None, REMEDY)
    except IntegrityError as error:
        raise ConfigError(error.what, error.remedy) from None
    return _of_array(array, what)


def _npz(path: Path, what: str, name: str) -> Matrix:
    with zipfile.ZipFile(path) as archive:
        members = {each.filename.removesuffix(".npy"): each.file_size for each in archive.infolist()}
    name = name or _only_name(members, what)
    if name not in members:
        raise _no_such(name, members, what)
    check_memory(members[name], f"{what} is compressed, and read whole")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return _of_array(arrays[name], what)
    except (ValueError, RuntimeError, zlib.error) as error:  # objects; encrypted, or compressed otherwise; damaged
        raise ConfigError(f"{what} cannot be read ({error}).", REMEDY) from None


def _safetensors(path: Path, what: str, name: str) -> Matrix:
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, "pt")
        names = {each: 0 for each in file.keys()}
        name = name or _only_name(names, what)
        if name not in names:
            raise _no_such(name, names, what)
        part = file.get_slice(name)
        shape, kind = part.get_shape(), part.get_dtype()
    except SafetensorError as error:
        raise ConfigError(f"{what} is no safetensors file ({error}).", REMEDY) from None
    if kind == "BOOL" or kind.startswith("C"):
        raise _not_real(kind.lower(), what)
    if len(shape) == 1:
        return _of_tensor(file.get_tensor(name), what)
    _check_axes(tuple(shape), what)

    def pieces(step: int) -> Iterator[np.ndarray]:
        return (_numbers(part[start : start + step], what) for start in range(0, shape[0], step))

    return Matrix(what, (shape[0], shape[1]), pieces)


def _torch(path: Path, what: str, name: str) -> Matrix:
    try:
        try:
            value = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # of an old format, which cannot be mapped
            check_memory(path.stat().st_size, f"{what} is of a format that torch reads whole")
            value = torch.load(path, map_location="cpu", weights_only=True)
    except StorageError:
        raise
    except Exception:  # torch has a dozen kinds, and advises to unpickle it all the same
        raise ConfigError(
            f"{what} holds more than tensors, or is damaged: it is read without unpickling.",
            "Save the tensor alone: torch.save(scores.cpu(), FILE).",
        ) from None
    if isinstance(value, dict):
        names = {str(key): key for key in value}
        value = value[names[name]] if name in names else _only(value, what)
    if not isinstance(value, Tensor):
        raise ConfigError(f"{what} holds a {type(value).__name__}, and no tensor.", "Save the tensor alone.")
    return _of_tensor(value, what)


def _csv(path: Path, what: str, name: str) -> Matrix:
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:  # as pandas, without its mark
            first = next(csv.reader(file), [])
    except csv.Error as error:  # a cell of more than 128 KiB
        raise ConfigError(f"{what} is no table of numbers ({error}).", REMEDY) from None
    if not first:
        raise ConfigError(f"{what} is empty.", REMEDY)
    header = not all(map(_is_number, first))
    used = [i for i, each in enumerate(first) if not header or each.strip() not in (*NOT_SCORES, TARGET)]
    named = _one_of_targets([i for i, each in enumerate(first) if header and each.strip() == TARGET], what)
    with path.open("rb") as file:
        rows = sum(1 for line in file if line.strip()) - header

    def read(columns: list[int], step: int, kind: Any) -> Iterator[Any]:
        import pandas as pd

        chosen = {"header": 0 if header else None, "usecols": columns, "chunksize": step}
        with pd.read_csv(path, **chosen, dtype=kind, encoding_errors="replace") as parts:
            yield from parts

    def pieces(step: int) -> Iterator[np.ndarray]:
        try:
            for part in read(used, step, np.float64):
                yield part.to_numpy()
        except (ValueError, OverflowError) as error:
            raise ConfigError(f"{what} holds text among its numbers ({printable(str(error))[:120]}).", REMEDY) from None

    targets = tuple(str(each) for part in read(named, PIECE, str) for each in part.iloc[:, 0]) if named else None
    _check_axes((rows, len(used)), what)
    return Matrix(what, (rows, len(used)), pieces, targets)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parquet(path: Path, what: str, name: str) -> Matrix:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path)
    except pa.ArrowException as error:
        raise ConfigError(f"{what} is no Parquet file ({printable(str(error))[:120]}).", REMEDY) from None
    schema = table.schema_arrow
    if twice := next((each for each in schema.names if schema.names.count(each) > 1), None):
        raise ConfigError(f"{what} has two columns {printable(twice)!r:.60}.", "Give each column a name of its own.")
    used = [each for each in schema.names if each not in (*NOT_SCORES, TARGET, "__index_level_0__")]
    for each in used:
        kind = schema.field(each).type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            raise ConfigError(
                f"The column {printable(each)!r:.60} of {what} holds {kind}, no numbers.", "Leave it out."
            )

    def pieces(step: int) -> Iterator[np.ndarray]:
        for batch in table.iter_batches(step, columns=used):
            columns = [batch.column(i).to_numpy(zero_copy_only=False) for i in range(batch.num_columns)]
            yield np.stack(columns, axis=1) if columns else np.empty((batch.num_rows, 0))

    targets = None
    if TARGET in schema.names:
        targets = tuple(map(str, table.read(columns=[TARGET]).column(0).to_pylist()))
    _check_axes((table.metadata.num_rows, len(used)), what)
    return Matrix(what, (table.metadata.num_rows, len(used)), pieces, targets)


# -- which of several


def _only(values: dict, what: str) -> Any:
    """The one matrix of a dict."""
    names = {str(key): key for key in values}
    return values[names[_only_name(names, what)]]


def _only_name(names: Iterable[str], what: str) -> str:
    names = list(names)
    if len(names) == 1:
        return names[0]
    raise ConfigError(
        f"{what} holds {len(names)} arrays{': ' if names else ''}{', '.join(map(printable, names[:12]))}.",
        f"Say which are the scores: FILE:{printable(names[0]) if names else 'NAME'}.",
    )


def _no_such(name: str, names: Iterable[str], what: str) -> ConfigError:
    listed = ", ".join(map(printable, list(names)[:12]))
    return ConfigError(f"{what} has no array {printable(name)!r:.80}.", f"It has {listed or 'none'}.")


# -- what it must be


def _two_axes(values: Any, what: str) -> Any:
    """Scores [N] are those of one target."""
    if len(values.shape) == 1:
        values = values[None]
    _check_axes(tuple(values.shape), what)
    return values


def _check_axes(shape: tuple[int, ...], what: str) -> None:
    if len(shape) != 2 or not all(shape):
        raise ConfigError(
            f"{what} is {_sizes(shape)}.",
            "Give a matrix of two axes, targets and training images, one of each at least.",
        )


def _check_kind(dtype: np.dtype, what: str) -> None:
    if dtype.kind not in "fiu":
        raise _not_real(str(dtype), what)


def _not_real(kind: str, what: str) -> ConfigError:
    return ConfigError(f"{what} holds {kind}, and no real numbers.", "Give floats: scores.astype(numpy.float32).")


def _sizes(shape: tuple[int, ...]) -> str:
    return " × ".join(f"{size:,}" for size in shape) if shape else "a single number"


def check_memory(needed: int, why: str) -> None:
    """Raises `StorageError` where `needed` bytes are not free in memory."""
    free = psutil.virtual_memory().available
    if needed > free:
        raise StorageError(
            f"{why}: that takes {needed / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB are free.",
            "Save it with numpy.save as an .npy file, which is read piece by piece.",
        )


def check_disk(shape: tuple[int, int], folder: Path) -> None:
    """Raises `StorageError` where float32 of this shape has no place on the disk of a folder."""
    needed, free = 4 * shape[0] * shape[1], space.disk_free(folder)
    if needed > files.MOST_BYTES_OF_ARRAYS:
        raise StorageError(
            f"Scores of {_sizes(shape)} take {needed / 1e9:,.1f} GB as float32, and a run holds "
            f"{files.MOST_BYTES_OF_ARRAYS / 1e9:,.0f} GB at most.",
            "Show fewer targets at a time.",
        )
    if needed + space.RESERVE > free:
        raise StorageError(
            f"Scores of {_sizes(shape)} take {needed / 1e9:,.1f} GB on the disk as float32, and {free / 1e9:,.1f} GB "
            f"are free at {folder}.",
            "Free space, show fewer targets, or name another folder with --outputs.",
        )


# -- which axis is which


def order_of(matrix: Matrix, targets: int, images: int, asked: str | None, named: bool) -> str:
    """What the rows are, of `ORDERS`: as `asked`, else as the sizes say, where they say it in one way alone. `named`:
    somebody said which the targets are, else they are all test images. Raises `ConfigError`."""
    if asked is not None and asked not in ORDERS:
        raise ConfigError(f"`order` is {asked!r:.60}.", "Say what the rows are: targets or training.")
    fits = {"targets": (targets, images), "training": (images, targets)}
    right = [order for order in ORDERS if matrix.shape == fits[order] and asked in (None, order)]
    if len(right) == 1:
        return right[0]
    if right:
        raise ConfigError(
            f"{matrix.what} is {_sizes(matrix.shape)}, and there are as many targets as training images: rows may be "
            "either.",
            "Say what the rows are, by order (--order): targets or training.",
        )
    other = next((order for order in ORDERS if matrix.shape == fits[order]), None)
    what = "targets" if named else "test images"
    found = f"{matrix.what} is {_sizes(matrix.shape)}; there are {targets:,} {what} and {images:,} training images."
    if other is not None:
        raise ConfigError(f"{found} Its rows are {other}, not {asked}.", f"Say order {other} (--order).")
    if images in matrix.shape and not named:
        raise ConfigError(
            found, "Say which test images were asked about: targets (--targets) 0-99, or 0,5,9, or a file."
        )
    if images in matrix.shape:
        raise ConfigError(found, "Name as many targets as the matrix has, in its order.")
    raise ConfigError(found, "Give the training images that the scores are of, all of them and in their order.")


def fill(out_KN: np.ndarray, matrix: Matrix, order: str) -> None:
    """Writes all of it into `out_KN` float32 [K, N], a piece at a time. Raises `ConfigError` for the first number that
    is not finite, or that float32 cannot hold, with its place in the matrix as it was given."""
    start, columns = 0, matrix.shape[1]
    for piece in matrix.pieces(max(1, PIECE // columns)):
        if piece.shape[1] != columns or start + len(piece) > matrix.shape[0]:
            raise ConfigError(f"{matrix.what} changed while it was read.", "Wait until nothing writes to it.")
        with np.errstate(over="ignore"):
            values = piece.astype(np.float32)
        if not np.isfinite(values).all():
            raise _not_finite(matrix.what, piece, values, start)
        if order == "targets":
            out_KN[start : start + len(piece)] = values
        else:
            out_KN[:, start : start + len(piece)] = values.T
        start += len(piece)
    if start != matrix.shape[0]:
        raise ConfigError(f"{matrix.what} ends at row {start:,} of {matrix.shape[0]:,}.", "Save it again.")


def _not_finite(what: str, piece: np.ndarray, values: np.ndarray, start: int) -> ConfigError:
    bad = ~np.isfinite(values)
    row, column = (int(i[0]) for i in np.nonzero(bad))
    given = float(piece[row, column])
    said = "is NaN" if np.isnan(given) else "is infinite" if np.isinf(given) else f"{given:.3g} is beyond float32"
    return ConfigError(
        f"{what}: row {start + row:,}, column {column:,} {said}; there are {int(bad.sum()):,} such numbers in the rows "
        f"{start:,} to {start + len(piece) - 1:,}.",
        "Scores must be finite: look at what made them, for a NaN is no score of 0.",
    )
