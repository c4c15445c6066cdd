"""The files that a data set's images were made of, byte for byte as they were then.

A prepared data set knows of each source file its path and its SHA-256. Here they are read again: for who takes the
images elsewhere, in their own size and format. Only data sets that are made of files of their own have any (folders,
tables of paths); images out of arrays, archives of a library, or a training from Python have their pixels alone.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from engine import files
from engine.datasets import corrected, names, store
from engine.datasets.base import Dataset
from engine.datasets.names import DatasetName, printable
from engine.errors import DataError, IntegrityError


@dataclass(frozen=True)
class Originals:
    """`known` are path below `root`, size and SHA-256 of each file, by the name that the data set has for it; None of
    a name that two files print as."""

    root: Path
    known: dict[str, tuple[str, int, str] | None]

    def size(self, name: str) -> int:
        """Bytes, as of when the data set was prepared; 0 of a file that is not known."""
        known = self.known.get(name)
        return 0 if known is None else known[1]

    def read(self, name: str) -> bytes:
        """The file's content. Raises `DataError` where it is not there any more, cannot be read, or has another content
        than when the data set was prepared."""
        known = self.known.get(name)
        remedy = "Restore it, or take the prepared pixels (--pixels) in place of the files."
        if known is None:
            raise DataError(f"The file {name} is not known, or two files are called so.", remedy)
        path, size, sha256 = known
        try:
            content = files.read_bytes(self.root / path, remedy, limit=max(size, 1))
        except IntegrityError as error:
            raise DataError(printable(error.what), error.remedy) from None
        if hashlib.sha256(content).hexdigest() != sha256:
            raise DataError(f"{name} has another content than when the data set was prepared.", remedy)
        return content


def of(dataset: Dataset) -> Originals | None:
    """None where the data set's images have no files of their own."""
    root = _root(dataset)
    if root is None:
        return None
    known: dict[str, tuple[str, int, str] | None] = {}
    for path, size, sha256 in store.source_files(dataset):
        name = printable(path)
        known[name] = None if name in known else (path, size, sha256)
    return Originals(root, known)


def _root(dataset: Dataset) -> Path | None:
    """The folder that the names of the data set's files are relative to."""
    if dataset.folder is None or dataset.train_names is None:
        return None
    name = DatasetName.parse(dataset.name)
    if name.kind == corrected.KIND:  # whose files are those of its base
        name = DatasetName.parse(corrected.read(dataset.name).base)
    place = names.absolute(name.place)
    if name.kind == "folder":
        return place
    if name.kind == "table":
        return names.absolute(dict(name.options).get("root", str(place.parent)))
    return None
