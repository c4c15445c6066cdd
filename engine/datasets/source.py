"""What a data set is made of: files as a cheap look finds them, and images as they are read."""

import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Sequence
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
    its last change in nanoseconds."""

    path: str
    size: int
    mtime_ns: int


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
    return Stamp(path, status.st_size, status.st_mtime_ns)


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
    """The content of a regular file, no links followed; it must be what the listing saw.

    Raises `ChangedError` where it is gone or has another size or time, `DataError` where it cannot be read.
    """
    path = os.path.join(root, stamp.path)
    shown = printable(stamp.path)
    again = "Wait until nothing writes to it, and load the data set again."
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ChangedError(f"{shown} went away while the data set was being read.", again) from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):  # a link, a file above it, a socket
            raise ChangedError(f"{shown} is no regular file any more.", again) from None
        raise DataError(f"It cannot be opened ({error.strerror}).", "Make it readable.") from None
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ChangedError(f"{shown} is no regular file any more.", again)
        try:
            content = file.read(stamp.size + 1)
        except OSError as error:
            raise DataError(f"It cannot be read ({error.strerror}).", "Check the disk, or copy it again.") from None
        status = os.fstat(file.fileno())
    if (status.st_size, status.st_mtime_ns, len(content)) != (stamp.size, stamp.mtime_ns, stamp.size):
        raise ChangedError(f"{shown} changed while the data set was being read.", again)
    return content


def for_testing(labels: Sequence[int] | np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Bool [N]: which examples are for testing, the same fraction of every class, at least one and never all of a
    class that has two or more. A pure function of its arguments."""
    labels = np.asarray(labels)
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
