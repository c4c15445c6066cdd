"""Prepared data sets: decoded once, written as memory-mapped arrays, found again while their sources stay as they were.

A `Source` (a folder of images, a table, arrays, …) says which files it is of and writes its images into a `Builder`.
`load` keeps them as

    prepared/<stem>-<key>/   train_images.npy  train_labels.npy  test_images.npy  test_labels.npy
                             names.json        the source file of each image, by split
                             files.json        path, size, time and SHA-256 of each source file
                             problems.json     unreadable files, empty classes, duplicates, …
                             earlier/*.json    files.json of what stood here before, by fingerprint
                             prepared.json     classes, form, fingerprint, histogram, checksums of the files above

in a temporary folder that is renamed when it is whole. One process prepares a data set at a time (a lock), the others
wait and find it. Images pass through in pieces: no split is ever whole in memory.
"""

import contextlib
import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine import files
from engine.datasets.base import ARRAYS, Dataset
from engine.datasets.builder import SCHEMA, Builder, path_of
from engine.datasets.decode import ImageForm
from engine.datasets.names import DatasetName, printable
from engine.datasets.prepared import data_folder, disk_errors, locked, new_folder, remove
from engine.datasets.source import ChangedError, Progress, Source, Stamp, nothing, sha256_of
from engine.errors import DataError, IntegrityError

logger = logging.getLogger(__name__)

EARLIER = 8  # versions whose files are remembered


def load(source: Source, on_progress: Progress = nothing) -> Dataset:
    """The prepared data set of a source, prepared now where that has not been done, or where a file of the source
    is another than it was then.

    Raises `DataError` where the source makes no data set, `StorageError` or `ReadOnlyError` where nothing can be
    written; then nothing is left behind. `on_progress` may raise, which cancels.
    """
    folder = folder_of(source.name)
    dataset = _prepared(folder, source)
    if dataset is not None:
        return dataset
    files.check_writable(folder)
    with locked(folder):
        dataset = _prepared(folder, source)  # another process may have made it while we waited
        manifest = _manifest(folder)
        if dataset is None and manifest is not None and _same_content(folder, manifest, source):
            files.write_json(folder / "prepared.json", manifest | {"quick": source.quick})
            dataset = _prepared(folder, source)
        if dataset is None:
            _build(folder, source, on_progress)
            dataset = _prepared(folder, source)
    if dataset is None:
        raise IntegrityError(f"{folder} was damaged right after it was written.", "Check the disk, and load again.")
    return dataset


def _prepared(folder: Path, source: Source) -> Dataset | None:
    """None where nothing is prepared, or it is of other files, or it is damaged: it is made anew."""
    manifest = _manifest(folder)
    if manifest is None or manifest["quick"] != source.quick:
        return None
    try:
        return _dataset(folder, manifest, source)
    except (IntegrityError, KeyError, TypeError, ValueError) as error:
        logger.warning("What was prepared for %s is made anew: %s", printable(source.name), error)
        return None


def folder_of(name: str) -> Path:
    """Where the data set of this canonical name is prepared."""
    place = name.partition(":")[2].partition("?")[0].rstrip("/")
    stem = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in Path(place).name)[:40]
    return data_folder() / "prepared" / f"{stem or 'data'}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class Prepared:
    """A data set that is prepared in the data folder."""

    name: str
    title: str
    folder: Path
    n_train: int
    n_test: int
    n_classes: int


def prepared_sets() -> list[Prepared]:
    """All that are prepared, by title; what cannot be read is left out, for it is made anew when it is asked for."""
    found = []
    with contextlib.suppress(OSError):
        for folder in sorted((data_folder() / "prepared").iterdir()):
            manifest = None if folder.name.startswith(".") else _manifest(folder)
            if manifest is not None:
                counts = manifest["counts"]
                found.append(
                    Prepared(
                        str(manifest["name"]),
                        str(manifest["title"]),
                        folder,
                        int(counts["train"]),
                        int(counts["test"]),
                        len(manifest["classes"]),
                    )
                )
    return sorted(found, key=lambda one: (one.title, one.name))


def prepared_places(kind: str) -> list[str]:
    """Of the data sets of a kind that are prepared, the files or folders that they were made from."""
    names = [DatasetName.parse(one.name) for one in prepared_sets()]
    return [name.place for name in names if name.kind == kind]


def is_prepared(name: str) -> bool:
    return _manifest(folder_of(name)) is not None


def delete(name: str) -> int:
    """Deletes what was prepared for a data set and returns the bytes freed. Its sources stay."""
    folder = folder_of(name)
    size = files.size_of(folder)
    with locked(folder), disk_errors(folder):
        remove(folder)
    return size


def identity(path: Path) -> tuple[int, ...]:
    """What tells a file from another one in its place, and from itself before somebody wrote to it; nothing where it is
    not there."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_ctime_ns


def is_there(dataset: Dataset) -> bool:
    """Whether the files that a data set maps stand where they stood, untouched."""
    return all(identity(path) == known for path, known in dataset.mapped.items())


def check(dataset: Dataset) -> None:
    """Raises `IntegrityError` where somebody wrote to the files that a data set maps: for jobs, before they record what
    came of them. Files that were deleted or replaced do no harm, since maps that are open keep what they had."""
    for path, known in dataset.mapped.items():
        now = identity(path)
        if now and now != known and now[0] == known[0]:
            manifest = _manifest(path.parent) or {"sha256": {}}
            if files.sha256_of(path) != manifest["sha256"].get(path.name):
                raise IntegrityError(
                    f"{path} was written to while the images in it were in use.",
                    f"Delete the folder {path.parent}, load the data set again, and repeat what was computed.",
                )


def changes(name: str, fingerprint: str, most: int = 5) -> list[str]:
    """Sentences that say which source files differ from those that the data set had when its fingerprint was
    `fingerprint`; empty where that is not known."""
    folder = folder_of(name)
    try:
        before, now = _read(folder / "earlier" / f"{fingerprint[:32]}.json"), _read(folder / "files.json")
        old, new = (dict(zip(side["paths"], side["sha256"], strict=True)) for side in (before, now))
    except (IntegrityError, KeyError, TypeError, ValueError):
        return []
    shown = {path: printable(path_of(path)) for path in (*old, *new)}
    lines = [f"{shown[path]} has another content" for path in old if path in new and new[path] != old[path]]
    lines += [f"{shown[path]} is gone" for path in old if path not in new]
    lines += [f"{shown[path]} is new" for path in new if path not in old]
    return lines if len(lines) <= most else [*lines[:most], f"and {len(lines) - most:,} more files"]


def problems(dataset: Dataset) -> list[dict]:
    """What was noticed while a data set was prepared: records with `kind`, `file` and `detail`, and for duplicates
    those of `engine.datasets.duplicates`. Empty for a data set that was not prepared."""
    if dataset.folder is None:
        return []
    manifest = _manifest(dataset.folder) or {}
    sha256 = manifest.get("sha256", {}).get("problems.json")
    return _read(dataset.folder / "problems.json", sha256)


def source_files(dataset: Dataset) -> list[tuple[str, int, str]]:
    """Path below the source's root, bytes and SHA-256 ("" where it could not be read) of each file that a data set was
    prepared from. Empty for one that was not prepared; `IntegrityError` where the list is damaged."""
    if dataset.folder is None:
        return []
    sha256 = (_manifest(dataset.folder) or {}).get("sha256", {}).get("files.json")
    table = _read(dataset.folder / "files.json", sha256)
    rows = zip(table["paths"], table["sizes"], table["sha256"], strict=True)
    return [(path_of(path), size, digest) for path, size, digest in rows]


def notes(dataset: Dataset) -> list[str]:
    """What was decided from the files: sentences."""
    manifest = None if dataset.folder is None else _manifest(dataset.folder)
    return [] if manifest is None else list(manifest["notes"])


def _read(path: Path, sha256: str | None = None):
    """A JSON file of a prepared data set; millions of names are more than other JSON files may hold."""
    remedy = f"Delete the folder {path.parent}, and load the data set again."
    return files.read_json(path, remedy, sha256, limit=files.MOST_BYTES_OF_ARRAYS)


def _manifest(folder: Path) -> dict | None:
    """prepared.json, or None where there is none, or one of another schema."""
    try:
        manifest = files.read_json(folder / "prepared.json", "")
    except IntegrityError:
        return None
    whole = isinstance(manifest, dict) and manifest.get("schema") == SCHEMA
    return manifest if whole and all((folder / name).is_file() for name in manifest["sha256"]) else None


def _dataset(folder: Path, manifest: dict, source: Source) -> Dataset:
    """The arrays as memory maps, each file compared with its checksum once a process."""
    remedy = f"Delete the folder {folder}, and load the data set again."
    sha256 = manifest["sha256"]
    mapped = {folder / f"{key}.npy": identity(folder / f"{key}.npy") for key in ARRAYS}
    arrays = {key: np.asarray(files.read_npy(folder / f"{key}.npy", sha256[f"{key}.npy"], remedy)) for key in ARRAYS}
    names = _read(folder / "names.json", sha256["names.json"])
    form = manifest["form"]
    dataset = Dataset(
        source.name,
        source.title,
        source.description,
        tuple(manifest["classes"]),
        **arrays,
        train_names=names["train"],
        test_names=names["test"],
        form=ImageForm(**form | {"ground": tuple(form["ground"])}),
        folder=folder,
    )
    return dataset.with_known(manifest["fingerprint"], np.array(manifest["histogram"]), mapped)


def _same_content(folder: Path, manifest: dict, source: Source) -> bool:
    """Whether the files of the source have the content that they had, although sizes or times were read anew (a
    copy, a touch). Only those with another stamp are read."""
    try:
        table = _read(folder / "files.json", manifest["sha256"]["files.json"])
        before = {
            path_of(path): row
            for path, *row in zip(table["paths"], table["sizes"], table["mtimes"], table["sha256"], strict=True)
        }
    except (IntegrityError, KeyError, TypeError, ValueError):
        return False
    if manifest.get("listing") != source.listing or before.keys() != {s.path for s in source.stamps}:
        return False
    for stamp in source.stamps:
        size, mtime, sha256 = before[stamp.path]
        if size != stamp.size:
            return False
        if mtime != stamp.mtime_ns and _sha256_of(source, stamp) != sha256:
            return False
    return True


def _sha256_of(source: Source, stamp: Stamp) -> str:
    """ "" where the file cannot be read, as when it was listed so."""
    try:
        return sha256_of(source.root, stamp)
    except ChangedError:
        raise
    except DataError:
        return ""


# -- building


def _build(folder: Path, source: Source, on_progress: Progress) -> None:
    with new_folder(folder) as temporary, contextlib.closing(Builder(temporary, source)) as builder:
        try:
            source.write(builder, on_progress)
        except OSError as error:  # the builder's own are `StorageError`s
            raise DataError(
                f"{printable(str(error.filename or source.place))} cannot be read ({error.strerror or error}).",
                "Check that it is there and that its disk is well, and load the data set again.",
            ) from error
        builder.finish(_earlier(folder))


def _earlier(folder: Path) -> dict[str, bytes]:
    """The lists of files of this data set's earlier versions, and of the present one, by their fingerprints."""
    lists: dict[str, bytes] = {}
    manifest = _manifest(folder)
    with contextlib.suppress(OSError):
        known = sorted((folder / "earlier").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        lists = {path.name: path.read_bytes() for path in known[-EARLIER:]}
    if manifest is not None:
        lists[f"{manifest['fingerprint'][:32]}.json"] = (folder / "files.json").read_bytes()
    return lists
