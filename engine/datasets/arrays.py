"""Arrays that are there already: an .npz file (of `numpy.savez`) with

    images       uint8 [N, H, W], [N, H, W, 1] or [N, H, W, 3]
    labels       integers [N] from 0, or text [N]
    test_images, test_labels   likewise; without them a fraction of each class is for testing
    classes      text [C]: what the labels 0 … C − 1 mean

    arrays:FILE.npz?test=0.2&seed=0

Members are read in pieces, so that no array of images is whole in memory. Nothing in the file is unpickled.
"""

import hashlib
import io
import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from typing import IO

import numpy as np

from engine.datasets import store
from engine.datasets.base import PIECE, Dataset
from engine.datasets.builder import Builder
from engine.datasets.decode import ImageForm
from engine.datasets.names import (
    LARGEST_SIDE,
    SMALLEST_SIDE,
    DatasetName,
    absolute,
    canonical,
    image_options,
    name_error,
    printable,
)
from engine.datasets.source import ChangedError, Progress, Stamp, class_order, digests_of, split_of, stamp_of, timed
from engine.errors import DataError, StorageError
from engine.space import RESERVE, disk_free

MEMBERS = ("images", "labels", "test_images", "test_labels", "classes")

USED = ("test", "seed")  # of `ImageOptions`

MOST_LABELS = 256 << 20  # bytes of a member that is read whole

REMEDY = "Save it with numpy.savez(FILE, images=…, labels=…), as docs/data.md says."


class Arrays:
    """The `Source` of an .npz file."""

    def __init__(self, name: DatasetName):
        self.options = image_options(name)
        unused = [key for key, _ in name.options if key not in USED]
        if unused:
            raise name_error(str(name), f"has no option {unused[0]}: arrays are taken as they are, with test and seed")
        self.place = self.file = absolute(name.place)
        self.root = self.file.parent
        self.name = canonical(name)
        self.title = self.file.stem
        self.description = f"Arrays of {self.file}"
        stamp = stamp_of(self.file, self.file.name)
        self.stamps: Sequence[Stamp] = (stamp,)
        self.listing, self.quick = digests_of(self.stamps)

    def write(self, builder: Builder, on_progress: Progress) -> None:
        try:
            with self.file.open("rb") as file, zipfile.ZipFile(file) as archive:
                self._write(builder, archive, on_progress)
                file.seek(0)
                builder.sha256[self.stamps[0].path] = hashlib.file_digest(file, "sha256").hexdigest()
                status = os.fstat(file.fileno())
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise DataError(f"{self.file} is no .npz file that can be read ({error}).", REMEDY) from None
        if (status.st_size, status.st_mtime_ns) != (self.stamps[0].size, self.stamps[0].mtime_ns):
            raise ChangedError(
                f"{self.file} changed while it was being read.", "Wait until nothing writes to it, and load again."
            )

    def _write(self, builder: Builder, archive: zipfile.ZipFile, on_progress: Progress) -> None:
        members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        twice = next(
            (name for name in members if sum(n.removesuffix(".npy") == name for n in archive.namelist()) > 1), ""
        )
        if twice:
            raise self._error(printable(twice), "stands in it twice")
        for name in sorted(members.keys() - set(MEMBERS)):
            builder.problem("ignored", name, f"is an array of {self.file.name} that is not read")
        for name in ("images", "labels", *(("test_labels",) if "test_images" in members else ())):
            if name not in members:
                raise self._error(
                    name, f"is not there; there are {', '.join(map(printable, sorted(members))) or 'none'}"
                )
        if "test_labels" in members and "test_images" not in members:
            raise self._error("test_images", "is not there, but test_labels is")
        splits = ["train", *(["test"] if "test_images" in members else [])]
        prefixes = {"train": "", "test": "test_"}
        headers = {}
        for split in splits:
            with archive.open(members[f"{prefixes[split]}images"]) as member:
                headers[split] = self._images_header(f"{prefixes[split]}images", member)
        if len({shape[1:] for shape in headers.values()}) > 1:
            raise self._error(
                "test_images", f"has images of {headers['test'][1:]}, where images has {headers['train'][1:]}"
            )
        labels, builder.classes = self._labels(archive, members, headers)
        height, width, channels = (*headers["train"][1:], 1)[:3]
        builder.form = ImageForm(height, width, channels)
        total = sum(shape[0] for shape in headers.values())
        needed = total * height * width * channels
        if needed + RESERVE > disk_free(builder.folder):
            raise StorageError(
                f"The prepared images of {self.file} take {needed / 1e6:,.0f} MB, and there is less free space.",
                "Free space, or set REPLAY_DATA_DIR to a larger disk.",
            )
        if "test" in splits:
            chosen = {"train": np.zeros(headers["train"][0], bool), "test": np.ones(headers["test"][0], bool)}
        else:
            chosen = {"train": np.array(split_of([""] * total, labels["train"], self.options, builder)) == "test"}
        report = timed(on_progress, total)
        done = 0
        for split in splits:
            name = f"{prefixes[split]}images"
            with archive.open(members[name]) as member:
                self._images_header(name, member)
                shape = (height, width, channels)
                rows = max(1, PIECE // math.prod(shape))
                for start in range(0, headers[split][0], rows):
                    n = min(rows, headers[split][0] - start)
                    content = _exactly(member, n * math.prod(shape))
                    images = np.frombuffer(content, np.uint8).reshape(n, *shape)
                    index = np.arange(start, start + n)
                    for to, mask in (("train", ~chosen[split][index]), ("test", chosen[split][index])):
                        if mask.any():
                            names = [f"{name}[{i}]" for i in index[mask]]
                            builder.append(to, images[mask], labels[split][index[mask]], names, [""] * len(names))
                    done += n
                    report(done)

    def _images_header(self, name: str, member: IO[bytes]) -> tuple[int, ...]:
        shape, fortran, dtype = self._header(name, member)
        if dtype != np.uint8:
            raise self._error(name, f"has the type {dtype}, not uint8", "Give pixels as uint8 from 0 to 255.")
        if fortran:
            raise self._error(name, "is in Fortran's order", "Save numpy.ascontiguousarray of it.")
        channels_first = len(shape) == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3)
        if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
            hint = "Move the channels last: images.transpose(0, 2, 3, 1)." if channels_first else REMEDY
            raise self._error(name, f"has the shape {shape}, not [N, H, W] or [N, H, W, 1 or 3]", hint)
        if not shape[0]:
            raise self._error(name, "holds no image")
        if not all(SMALLEST_SIDE <= side <= LARGEST_SIDE for side in shape[1:3]):
            raise self._error(name, f"has images of {shape[1:3]}; sides are from {SMALLEST_SIDE} to {LARGEST_SIDE}")
        return shape

    def _header(self, name: str, member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
        try:
            version = np.lib.format.read_magic(member)
            if version == (1, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
            else:
                shape, fortran, dtype = np.lib.format.read_array_header_2_0(member)
        except (zipfile.BadZipFile, zlib.error):
            raise
        except Exception as error:  # a header is a Python literal, and its parser has many kinds of errors
            raise self._error(name, f"has no header that can be read ({error})") from None
        if min(shape, default=0) < 0:
            raise self._error(name, f"has the shape {shape}")
        if dtype.hasobject:
            raise self._error(
                name, "holds Python objects, which are not read", "Save numbers, or text of a fixed width."
            )
        return shape, fortran, dtype

    def _labels(self, archive: zipfile.ZipFile, members: dict[str, str], headers: dict[str, tuple[int, ...]]):
        """int64 labels by split, and the classes."""
        prefixes = {"train": "", "test": "test_"}
        columns = {}
        for split, shape in headers.items():
            name = f"{prefixes[split]}labels"
            column = self._whole(name, archive, members)
            if column.ndim == 2 and len(column) == shape[0] and column.dtype.kind in "biuf":
                raise self._error(
                    name, f"has the shape {column.shape}, one row an image", f"Give one number each: {name}.argmax(1)."
                )
            if column.ndim != 1 or len(column) != shape[0]:
                raise self._error(
                    name, f"has the shape {column.shape}, where {prefixes[split]}images has {shape[0]:,} images"
                )
            if column.dtype.kind not in "iuU":
                to = {"b": "int", "f": "int", "S": "str"}.get(column.dtype.kind)
                remedy = REMEDY if to is None else f"Convert them: {name}.astype({to})."
                raise self._error(name, f"has the type {column.dtype}; labels are integers or text", remedy)
            if column.dtype.kind != "U" and column.min() < 0:
                raise self._error(name, f"has the label {column.min()}; labels count from 0")
            columns[split] = column
        text = {column.dtype.kind == "U" for column in columns.values()}
        if len(text) > 1:
            raise self._error("test_labels", "is of another kind (text or integers) than labels")
        classes = None
        if "classes" in members:
            given = self._whole("classes", archive, members)
            if given.ndim != 1 or given.dtype.kind != "U":
                raise self._error("classes", f"has the type {given.dtype} and shape {given.shape}; it is text [C]")
            classes = self._texts("classes", given)
            if len(set(classes)) < len(classes):
                raise self._error("classes", "names a class twice")
        if text == {True}:
            texts = {split: self._texts(f"{prefixes[split]}labels", column) for split, column in columns.items()}
            names = {name for column in texts.values() for name in column}
            classes = classes or sorted(names, key=class_order(names))
            unknown = sorted(names - set(classes))
            if unknown:
                raise self._error("labels", f"has «{unknown[0][:40]}», which is not among classes")
            numbers = {name: number for number, name in enumerate(classes)}
            columns = {split: np.array([numbers[name] for name in column]) for split, column in texts.items()}
        if classes is None:  # numbers that nobody has are no classes
            numbers = np.unique(np.concatenate(list(columns.values())))
            classes = [str(number) for number in numbers.tolist()]
            columns = {split: np.searchsorted(numbers, column) for split, column in columns.items()}
        highest = max(int(column.max()) for column in columns.values())
        if highest >= len(classes):
            raise self._error("labels", f"has the label {highest:,}, where classes has {len(classes):,} names")
        return {split: column.astype(np.int64) for split, column in columns.items()}, classes

    def _texts(self, name: str, column: np.ndarray) -> list[str]:
        try:
            texts = column.tolist()
            for text in texts:
                text.encode()
        except (SystemError, ValueError) as error:  # four bytes of a file may be no character
            raise self._error(name, f"holds what is no text ({error})") from None
        if "" in texts:
            raise self._error(name, f"has an empty text at {texts.index('')}", "Give every class a name.")
        return texts

    def _whole(self, name: str, archive: zipfile.ZipFile, members: dict[str, str]) -> np.ndarray:
        with archive.open(members[name]) as member:
            shape, _, dtype = self._header(name, member)
        if math.prod(shape) * dtype.itemsize > MOST_LABELS:
            raise self._error(name, f"has the shape {shape}, more than labels can have")
        with archive.open(members[name]) as member:
            content = member.read(MOST_LABELS + (1 << 16))
        try:
            return np.load(io.BytesIO(content), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise self._error(name, f"is damaged ({error})") from None

    def _error(self, name: str, problem: str, remedy: str = REMEDY) -> DataError:
        return DataError(f"{self.file}: {name} {problem}.", remedy)


def _exactly(member: IO[bytes], size: int) -> bytes:
    content = member.read(size)
    if len(content) != size:
        raise EOFError("an array ends before its header says")
    return content


def load(name: DatasetName, on_progress: Progress) -> Dataset:
    return store.load(Arrays(name), on_progress)
