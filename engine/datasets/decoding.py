"""The files of a source, decoded in threads."""

import contextlib
import hashlib
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from engine.datasets import raster
from engine.datasets.base import PIECE, SPLITS
from engine.datasets.builder import Builder
from engine.datasets.decode import ImageForm, decode
from engine.datasets.names import ImageOptions
from engine.datasets.source import ChangedError, Item, Progress, timed
from engine.errors import DataError, StorageError
from engine.space import RESERVE, disk_free

SAMPLED = 500  # files whose sizes decide the default side

SIDES = (8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64)  # the default side is one of them


def decode_items(builder: Builder, items: Sequence[Item], options: ImageOptions, on_progress: Progress) -> None:
    """Decodes the items in threads (Pillow's decoders leave Python's lock) and appends them in their order."""
    if not items:
        return
    builder.form = form = choose_form(items, options, builder)
    needed = len(items) * form.height * form.width * form.channels
    if needed + RESERVE > disk_free(builder.folder):
        raise StorageError(
            f"The prepared images take {needed / 1e6:,.0f} MB, and {disk_free(builder.folder) / 1e6:,.0f} MB are free "
            f"on the disk of {builder.folder.parent}.",
            "Free space, choose a smaller side, or set REPLAY_DATA_DIR to a larger disk.",
        )
    chunk = max(1, min(32, PIECE // (form.height * form.width * form.channels)))
    threads = max(1, min(8, len(os.sched_getaffinity(0))))
    done = 0
    waiting: deque = deque()
    starts = iter(range(0, len(items), chunk))
    report = timed(on_progress, len(items))
    with ThreadPoolExecutor(threads, "decode") as pool:
        try:
            while True:
                while len(waiting) < 3 * threads and (start := next(starts, None)) is not None:
                    some = items[start : start + chunk]
                    waiting.append((some, pool.submit(_decode_some, some, form)))
                if not waiting:
                    break
                some, future = waiting.popleft()
                _append(builder, some, future.result())
                done += len(some)
                report(done)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def choose_form(items: Sequence[Item], options: ImageOptions, builder: Builder) -> ImageForm:
    """The options' form; a side that they leave open is chosen from `SAMPLED` of the files, and said."""
    if options.color == "auto":
        builder.grey_if_possible = True
    size = options.size
    if size is None:
        size = _default_size(items, builder)
    width, height = size
    return ImageForm(height, width, 1 if options.color == "grey" else 3, options.fit, options.ground_rgb)


def _default_size(items: Sequence[Item], builder: Builder) -> tuple[int, int]:
    """Width and height: that of all files where it is one and small; else the largest of `SIDES` that is not above
    the median of the shorter sides."""
    sizes = []
    for index in np.unique(np.linspace(0, len(items) - 1, SAMPLED).round().astype(int)):
        with contextlib.suppress(DataError):  # those that cannot be read are listed when their turn comes
            sizes.append(raster.size_of(items[index].read()))
    if not sizes:
        return (64, 64)
    if len(set(sizes)) == 1 and max(sizes[0]) <= SIDES[-1] and min(sizes[0]) >= SIDES[0]:
        builder.notes.append(f"Size {sizes[0][0]} × {sizes[0][1]}: that of the files.")
        return sizes[0]
    median = int(np.median([min(size) for size in sizes]))
    side = max((side for side in SIDES if side <= median), default=SIDES[0])
    builder.notes.append(
        f"Size {side} × {side}, chosen from the files: the median of their shorter sides is {median} pixels "
        f"(looked at: {len(sizes):,}); larger than {SIDES[-1]} only where it is asked for."
    )
    return side, side


def _decode_some(items: Sequence[Item], form: ImageForm) -> list[tuple[np.ndarray | None, str, str]]:
    """Image, SHA-256 of its file, and why it cannot be read; `ChangedError`s pass through."""
    results: list[tuple[np.ndarray | None, str, str]] = []
    for item in items:
        sha256 = ""
        try:
            content = item.read()
            sha256 = hashlib.sha256(content).hexdigest()
            results.append((decode(content, form).image, sha256, ""))
        except ChangedError:
            raise
        except DataError as error:
            results.append((None, sha256, error.what))
    return results


def _append(builder: Builder, items: Sequence[Item], results: list[tuple[np.ndarray | None, str, str]]) -> None:
    for item, (image, sha256, why) in zip(items, results, strict=True):
        builder.sha256[item.name] = sha256
        if image is None:
            builder.problem("unreadable", item.name, why)
    for split in SPLITS:
        rows = [
            (image, item.label, item.name, sha256)
            for item, (image, sha256, _) in zip(items, results, strict=True)
            if image is not None and item.split == split
        ]
        if rows:
            images, labels, names, hashes = zip(*rows, strict=True)
            builder.append(split, np.stack(images), labels, names, hashes)
