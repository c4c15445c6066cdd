"""What a data set is made of: files as a cheap look finds them, and images as they are read."""

import contextlib
import errno
import hashlib
import io
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from engine.datasets.names import ImageOptions, printable
from engine.errors import DataError

if TYPE_CHECKING:
    from engine.datasets.builder import Builder

Progress = Callable[[int, int, float | None], None]  # done, of, seconds left (None: not known yet)


TESTS = ("test", "val", "valid", "validation")  # of those that are there, the first is the test split


@dataclass(frozen=True)
class Stamp:
    """A source file as the listing found it: its path below the source's root (`os.fsdecode`d), bytes, and time of
    its last change in nanoseconds. `named`: somebody named this very file, which may be a link then; what was found in
    a folder is none."""

    path: str
    size: int
    mtime_ns: int
    named: bool = False


@dataclass(frozen=True)
class Item:
    """One image of a source: `read` returns the bytes of its file. `path` is its source file, None where several
    images are in one file."""

    split: str
    label: int
    name: str
    read: Callable[[], bytes]


class Source(Protocol):
    """What a data set is made from; made by a cheap look at the disk, without reading any image."""

    name: str  # the canonical name: absolute path, options
    title: str
    description: str
    place: Path  # the file or folder that messages name
    root: Path  # of the stamps' paths
    stamps: Sequence[Stamp]
    listing: str  # digest of which files there are, and of what else the look saw, but for sizes and times
    quick: str  # digest of `listing`, and of the files' sizes and times

    def write(self, builder: "Builder", on_progress: Progress) -> None:
        """Appends every image, and notes every problem."""
        ...


class ChangedError(DataError):
    """A source file changed while the data set was being read."""


def nothing(done: int, of: int, seconds_left: float | None) -> None:
    """Progress that nobody watches."""


def stamp_of(file: Path, path: str) -> Stamp:
    """The stamp of a single source file; `DataError` where it is not there or no regular file."""
    try:
        status = os.stat(file)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise DataError(f"There is no file {file} ({said}).", "Correct the path in the data set's name.") from None
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{file} is no file.", "A folder of images is named folder:DIR.")
    return Stamp(path, status.st_size, status.st_mtime_ns, named=True)


def digests_of(stamps: Sequence[Stamp], further: str = "") -> tuple[str, str]:
    """`listing` and `quick` of a source that saw these files and nothing else."""
    listing = hashlib.sha256(os.fsencode("\0".join([further, *(stamp.path for stamp in stamps)]))).hexdigest()
    times = "\0".join(f"{stamp.size} {stamp.mtime_ns}" for stamp in stamps)
    return listing, hashlib.sha256(f"{listing}\0{times}".encode()).hexdigest()


def timed(on_progress: Progress, of: int) -> Callable[[int], None]:
    """Reports how many are done, with the seconds that are left at the pace so far."""
    began = time.monotonic()
    on_progress(0, of, None)

    def report(done: int) -> None:
        elapsed = time.monotonic() - began
        on_progress(done, of, elapsed / done * (of - done) if done else None)

    return report


def read(root: Path, stamp: Stamp) -> bytes:
    """The content of a regular file; it must be what the listing saw.

    Raises `ChangedError` where it is gone or has another size or time, `DataError` where it cannot be read.
    """
    with opened(root, stamp) as file:
        content = file.read(stamp.size + 1)
        if len(content) != stamp.size:
            raise _changed(stamp, "changed while the data set was being read")
    return content


def sha256_of(root: Path, stamp: Stamp) -> str:
    """Of a file's content, which is never whole in memory. Raises as `read`."""
    with opened(root, stamp) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _changed(stamp: Stamp, how: str) -> "ChangedError":
    return ChangedError(
        f"{printable(stamp.path)} {how}.", "Wait until nothing writes to it, and load the data set again."
    )


@contextlib.contextmanager
def opened(root: Path, stamp: Stamp) -> Iterator[io.BufferedReader]:
    """A source's file, open for reading; no links are followed to one that nobody named. Raises as `read`, also
    where it is another file at the end."""
    path = os.path.join(root, stamp.path)
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if stamp.named else os.O_NOFOLLOW)
    try:
        handle = os.open(path, flags)
    except FileNotFoundError:
        raise _changed(stamp, "went away while the data set was being read") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):  # a link, a file above it, a socket
            raise _changed(stamp, "is no regular file any more") from None
        raise DataError(f"It cannot be opened ({error.strerror}).", "Make it readable.") from None
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise _changed(stamp, "is no regular file any more")
        try:
            yield file
        except OSError as error:
            raise DataError(f"It cannot be read ({error.strerror}).", "Check the disk, or copy it again.") from None
        status = os.fstat(file.fileno())
    if (status.st_size, status.st_mtime_ns) != (stamp.size, stamp.mtime_ns):
        raise _changed(stamp, "changed while the data set was being read")


def for_testing(labels: Sequence[int] | np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Bool [N]: which examples are for testing, the same fraction of every class, at least one and never all of a
    class that has two or more. A pure function of its arguments."""
    labels = np.asarray(labels, np.int64)
    chosen = np.zeros(len(labels), bool)
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    for label, (start, n) in enumerate(zip(np.cumsum(counts) - counts, counts, strict=True)):
        if n >= 2:
            test = min(max(round(fraction * int(n)), 1), int(n) - 1)
            picked = np.random.default_rng([seed, label]).permutation(n)[:test]
            chosen[order[start + picked]] = True
    return chosen


def split_of(
    splits: Sequence[str], labels: Sequence[int] | np.ndarray, options: ImageOptions, builder: "Builder"
) -> list[str]:
    """ "train" or "test" for each image: as the source says, or a fraction of each class where it says nothing."""
    if any(split == "test" for split in splits):
        return [split or "train" for split in splits]
    chosen = for_testing(labels, options.test, options.seed)
    builder.notes.append(
        f"There is no test split: {options.test:g} of each class is for testing, drawn with seed {options.seed}."
    )
    return ["test" if test else "train" for test in chosen]


def class_order(names: set[str]) -> Callable:
    """Classes are numbered in the order of their names: as numbers where all are, else byte by byte."""
    if all(name.isascii() and name.isdigit() for name in names):
        return lambda name: (int(name), name)
    return os.fsencode
