"""Takes the images of a data set in pieces, and writes them as arrays."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from engine import files
from engine.datasets import duplicates
from engine.datasets.base import ARRAYS, SPLITS, Dataset, histogram, pieces
from engine.datasets.decode import ImageForm, has_colours
from engine.datasets.names import printable
from engine.datasets.prepared import disk_errors
from engine.datasets.source import Source
from engine.errors import DataError

SCHEMA = 1  # of prepared.json

HEADER = 128  # bytes of the header of an .npy file that is written in pieces


class Builder:
    """Takes a data set's images in pieces and writes them; `finish` makes the folder whole.

    `form` says what every image must be; a `Source` that decodes sets it before the first `append`.
    """

    def __init__(self, folder: Path, source: Source):
        self.folder, self.source = folder, source
        self.form: ImageForm | None = None
        self.classes: list[str] = []
        self.grey_if_possible = False
        self.notes: list[str] = []
        self.problems: list[dict] = []
        self.sha256: dict[str, str] = {}  # of source files, by path
        self._coloured = False
        with disk_errors(folder):
            self._splits = {split: _Split(folder / f"{split}_images.npy") for split in SPLITS}

    def problem(self, kind: str, file: str, detail: str) -> None:
        self.problems.append({"kind": kind, "file": printable(file), "detail": detail})

    def append(
        self,
        split: str,
        images: np.ndarray,
        labels: Sequence[int] | np.ndarray,
        names: Sequence[str],
        files: Sequence[str],
    ) -> None:
        """Images uint8 [n, H, W, C]; `files` has the SHA-256 of each image's file, or "" each."""
        if self.grey_if_possible and not self._coloured:
            self._coloured = has_colours(images)
        with disk_errors(self.folder):
            self._splits[split].append(images, labels, names, files)

    def finish(self, earlier: dict[str, bytes]) -> None:
        """Writes labels, names, checksums and what was noticed. Raises `DataError` where no data set has come of it,
        and `StorageError` where the disk refuses it, as `append` does."""
        with disk_errors(self.folder):
            self._finish(earlier)

    def _finish(self, earlier: dict[str, bytes]) -> None:
        self.close()
        form = self.form
        if form is None or not sum(part.n for part in self._splits.values()):
            raise no_images(self.source, self.problems)
        if self.grey_if_possible and not self._coloured and form.channels == 3:
            form = replace(form, channels=1)
            self.notes.append("Grey: no file has a pixel of another colour.")
            for part in self._splits.values():
                part.first_channel()
        classes, labels = self._final_labels()
        for split in SPLITS:
            np.save(self.folder / f"{split}_labels.npy", labels[split], allow_pickle=False)
        arrays = {key: np.load(self.folder / f"{key}.npy", mmap_mode="r", allow_pickle=False) for key in ARRAYS}
        counts = histogram(arrays["train_images"])
        names = {split: [printable(name) for name in part.names] for split, part in self._splits.items()}
        self.problems += duplicates.groups(
            {split: part.digests for split, part in self._splits.items()},
            {split: part.files for split, part in self._splits.items()},
            {split: labels[split].tolist() for split in SPLITS},
            names,
            classes,
        )
        stamps = self.source.stamps
        sources = {
            "paths": [stored_path(stamp.path) for stamp in stamps],
            "sizes": [stamp.size for stamp in stamps],
            "mtimes": [stamp.mtime_ns for stamp in stamps],
            "sha256": [self.sha256.get(stamp.path, "") for stamp in stamps],
        }
        probe = Dataset(self.source.name, "", "", classes, **arrays)
        for name, value in (("names.json", names), ("files.json", sources), ("problems.json", self.problems)):
            files.write_bytes(self.folder / name, (json.dumps(value, ensure_ascii=False) + "\n").encode())
        (self.folder / "earlier").mkdir()
        for name, content in earlier.items():
            files.write_bytes(self.folder / "earlier" / name, content)
        written = [*(f"{key}.npy" for key in ARRAYS), "names.json", "files.json", "problems.json"]
        for name in written:
            with (self.folder / name).open("rb") as file:
                os.fsync(file.fileno())
        manifest = {
            "schema": SCHEMA,
            "name": self.source.name,
            "title": self.source.title,
            "classes": classes,
            "form": asdict(form),
            "counts": {split: part.n for split, part in self._splits.items()},
            "notes": self.notes,
            "quick": self.source.quick,
            "listing": self.source.listing,
            "fingerprint": probe.fingerprint,
            "histogram": counts.tolist(),
            "sha256": {name: _sha256(self.folder / name) for name in written},
        }
        files.write_json(self.folder / "prepared.json", manifest)

    def close(self) -> None:
        for part in self._splits.values():
            part.close()

    def _final_labels(self) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
        """Classes that have images, and the labels of both splits by them. Lists classes without images."""
        labels = {split: np.array(part.labels, np.int64) for split, part in self._splits.items()}
        counts = {split: np.bincount(labels[split], minlength=len(self.classes)) for split in SPLITS}
        present = np.flatnonzero(counts["train"] + counts["test"])
        for index in np.flatnonzero(counts["train"] + counts["test"] == 0):
            self.problem("empty class", self.classes[index], "has no image that can be read, and is left out")
        for index in present:
            for split, verb in (("train", "training"), ("test", "test")):
                if not counts[split][index]:
                    self.problem(f"no {verb} images", self.classes[index], f"has no {verb} image")
        trained = np.flatnonzero(counts["train"])
        place = printable(str(self.source.place))
        if len(trained) < 2:
            only = f"only one class, «{printable(self.classes[trained[0]])}»," if len(trained) else "no class"
            raise DataError(
                f"{place} has {only} with training images that can be read.",
                "Two classes or more are needed, each with images for training.",
            )
        if not len(labels["test"]):
            raise DataError(
                f"{place} leaves no image for testing: no class has two images.",
                "Add images, or a split for testing.",
            )
        new = np.zeros(len(self.classes), np.int64)
        new[present] = np.arange(len(present))
        return unique_names([self.classes[i] for i in present]), {s: new[labels[s]] for s in SPLITS}


class _Split:
    """An .npy file that grows by rows, and what is known of each row."""

    def __init__(self, path: Path):
        self.path = path
        self.file = path.open("wb")
        self.file.write(b"\0" * HEADER)
        self.shape: tuple[int, ...] = ()
        self.labels: list[int] = []
        self.names: list[str] = []
        self.files: list[str] = []
        self.digests: list[bytes] = []

    @property
    def n(self) -> int:
        return len(self.labels)

    def append(self, images, labels, names, hashes) -> None:
        self.shape = images.shape[1:]
        images = np.ascontiguousarray(images)
        self.file.write(images.data)
        self.labels += map(int, labels)
        self.names += names
        self.files += hashes
        self.digests += map(duplicates.digest, images)

    def close(self) -> None:
        if self.file.closed:
            return
        self.file.seek(0)
        self.file.write(_npy_header((self.n, *(self.shape or (1, 1, 1)))))
        self.file.close()

    def first_channel(self) -> None:
        """Keeps the first of three equal channels."""
        images = np.load(self.path, mmap_mode="r", allow_pickle=False)
        grey = self.path.with_name("grey.npy")
        with grey.open("wb") as file:
            file.write(_npy_header((*images.shape[:3], 1)))
            for piece in pieces(images):
                file.write(np.ascontiguousarray(piece[..., :1]).data)
        os.replace(grey, self.path)


def stored_path(path: str) -> str:
    """A path of any bytes as text that JSON can hold: each byte is one character (Latin-1)."""
    return os.fsencode(path).decode("latin-1")


def path_of(stored: str) -> str:
    return os.fsdecode(stored.encode("latin-1"))


def _npy_header(shape: tuple[int, ...]) -> bytes:
    """Of uint8 rows in C order, padded to `HEADER` bytes (NEP 1, version 1.0)."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text = text.ljust(HEADER - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """Printable class names, told apart where two print alike."""
    seen: set[str] = set()
    result = []
    for name in map(printable, names):
        text, number = name, 2
        while text in seen:
            text, number = f"{name} ({number})", number + 1
        seen.add(text)
        result.append(text)
    return tuple(result)


def no_images(source: Source, problems: list[dict]) -> DataError:
    unreadable = [problem for problem in problems if problem["kind"] == "unreadable"]
    first = f" The first of {len(unreadable):,} that cannot be read: {unreadable[0]['file']}: " if unreadable else ""
    detail = unreadable[0]["detail"] if unreadable else ""
    return DataError(
        f"{printable(str(source.place))} has no image that can be read.{first}{detail}", "See docs/data.md."
    )
