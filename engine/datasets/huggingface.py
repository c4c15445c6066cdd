"""Data sets of Hugging Face's `datasets`: `hf:NAME_OR_DIR?image=COLUMN&label=COLUMN&side=…`.

A folder that `save_to_disk` wrote, or one of Parquet files (`train-00000-of-00002.parquet`, or in `data/`), is read by
PyArrow alone; a name of the hub needs the package `datasets` (an extra) and a network, or its cache.
"""

import contextlib
import importlib
import json
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from engine import files
from engine.datasets import store
from engine.datasets.base import Dataset
from engine.datasets.builder import Builder
from engine.datasets.decoding import decode_items
from engine.datasets.names import OWN, DatasetName, absolute, canonical, image_options, printable
from engine.datasets.source import TESTS, Item, Progress, Stamp, class_order, digests_of, sha256_of, split_of, stamp_of
from engine.errors import DataError

REMEDY = "docs/data.md says what such a folder holds; name columns with image= and label=."


@dataclass(frozen=True)
class Part:
    """A file of one split. `kind` is arrow or parquet."""

    split: str
    path: Path
    kind: str


class HuggingFaceSet:
    """The `Source` of a folder, or of a data set of the hub."""

    def __init__(self, name: DatasetName):
        self.options = image_options(name, OWN[name.kind])
        self.columns = {key: value for key, value in name.options if key in ("image", "label")}
        place = absolute(name.place)
        if os.path.isdir(place):
            self.root, parts = place, _parts(place)
        else:
            self.root, parts = _of_hub(name.place)
        self.name, self.place = canonical(name), self.root
        if not any(part.split == "train" for part in parts):
            raise DataError(
                f"{place} has no split train; its splits are {', '.join(sorted({p.split for p in parts})) or 'none'}.",
                REMEDY,
            )
        self.title = Path(name.place).name or name.place
        self.description = f"Hugging Face data set {name.place}"
        tests = next((name for name in TESTS if any(part.split == name for part in parts)), None)
        self._ignored = sorted({part.split for part in parts} - {"train", tests})
        self._parts = [
            Part("test" if part.split == tests else "train", part.path, part.kind)
            for part in parts
            if part.split in ("train", tests)
        ]
        self.stamps: Sequence[Stamp] = [stamp_of(p.path, os.path.relpath(p.path, self.root)) for p in self._parts]
        self.listing, self.quick = digests_of(self.stamps)

    def write(self, builder: Builder, on_progress: Progress) -> None:
        for split in self._ignored:
            builder.problem("ignored", split, "is a split that is not read")
        rows: list[tuple[str, _Images, int, str]] = []  # split, image column, row in it, name; labels beside
        labels: list[Any] = []
        names: list[str] | None = None
        for part in self._parts:
            schema = _schema(part)
            image, label = self._column(schema, "image"), self._column(schema, "label")
            names = _class_names(schema, label) or names
            images, column = _Images(part, image), _labels(part, label)
            labels += column
            rows += [(part.split, images, row, f"{part.path.name}[{row}]") for row in range(len(column))]
        if any(label is None for label in labels):
            row = rows[labels.index(None)][-1]
            raise DataError(f"{self.root}: {row} has no label.", "Give every image a label.")
        if names is not None and all(isinstance(label, int) for label in labels):
            builder.classes = names
            numbers = labels
            if labels and not 0 <= min(labels) <= max(labels) < len(names):
                raise DataError(f"{self.root} has labels beyond its {len(names):,} class names.", REMEDY)
        else:
            texts = [str(label) for label in labels]
            builder.classes = sorted(set(texts), key=class_order(set(texts)))
            place = {name: number for number, name in enumerate(builder.classes)}
            numbers = [place[text] for text in texts]
        tested = any(split == "test" for split, *_ in rows)
        splits = split_of([split if tested else "" for split, *_ in rows], numbers, self.options, builder)
        items = [
            Item(split, number, name, partial(images.read, row))
            for (_, images, row, name), number, split in zip(rows, numbers, splits, strict=True)
        ]
        items.sort(key=lambda item: item.split != "train")
        decode_items(builder, items, self.options, on_progress)
        for stamp in self.stamps:
            builder.sha256[stamp.path] = sha256_of(self.root, stamp)

    def _column(self, schema: Any, what: str) -> str:
        """The column that holds images or labels: the one that is named, or the only one that can be meant."""
        wanted = self.columns.get(what)
        if wanted is None:
            candidates = [what] if what in schema.names else _candidates(schema, what)
            if len(candidates) == 1:
                return candidates[0]
        elif wanted in schema.names:
            return wanted
        raise DataError(
            f"{self.root} has no column {printable(wanted or what)}; its columns are "
            f"{', '.join(map(printable, schema.names))}.",
            f"Name the right one: …?{what}=COLUMN.",
        )


def _parts(folder: Path) -> list[Part]:
    """The files of a folder that `save_to_disk` wrote, or of one of Parquet files."""
    if (folder / "dataset_dict.json").is_file():
        value = files.read_json(folder / "dataset_dict.json", REMEDY)
        splits = value.get("splits") if isinstance(value, dict) else None
        if not isinstance(splits, list) or not all(isinstance(s, str) and _is_inside(folder, s) for s in splits):
            raise DataError(f"{folder / 'dataset_dict.json'} names no splits that are there.", REMEDY)
        return [part for split in splits for part in _saved(folder / split, split)]
    if (folder / "state.json").is_file():
        return _saved(folder, "train")
    parquet = sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")])
    if not parquet:
        raise DataError(
            f"{folder} is neither a folder that save_to_disk wrote nor one of Parquet files.",
            "A folder of images is named folder:DIR.",
        )
    return [Part(_split_of_name(path.name), path, "parquet") for path in parquet]


def _is_inside(folder: Path, split: str) -> bool:
    return os.path.basename(split) == split not in ("", ".", "..") and (folder / split).is_dir()


def _split_of_name(name: str) -> str:
    """`train-00000-of-00002.parquet` → train; a file whose name begins with no split is for training."""
    first = name.removesuffix(".parquet").split("-")[0].split("_")[0].lower()
    return first if first in ("train", *TESTS, "unsupervised") else "train"


def _saved(folder: Path, split: str) -> list[Part]:
    state = files.read_json(folder / "state.json", REMEDY)
    try:
        names = [part["filename"] for part in state["_data_files"]]
        indices = state.get("_indices_files") or state.get("_indices_data_files")
    except (KeyError, TypeError):
        raise DataError(f"{folder / 'state.json'} names no data files.", REMEDY) from None
    if indices:
        raise DataError(f"{folder} was saved with an index beside its rows.", "Save it after flatten_indices().")
    for name in names:
        if not isinstance(name, str) or not name or os.path.basename(name) != name:
            raise DataError(f"{folder / 'state.json'} names the file {name!r}, outside its folder.", REMEDY)
    return [Part(split.lower(), folder / name, "arrow") for name in names]


def _of_hub(name: str) -> tuple[Path, list[Part]]:
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError:
        raise DataError(
            f"hf:{printable(name)} is no folder here, and names of the hub need the package `datasets`.",
            "Correct the path, or: pip install 'replay-explorer[huggingface]'.",
        ) from None
    try:
        splits = datasets.load_dataset(name)
    except Exception as error:  # its loaders raise what they like: of the network, of files, of their own
        raise DataError(
            f"The data set {printable(name)} cannot be had from the hub ({' '.join(str(error).split())[:300]}).",
            "Check name and network, or save it elsewhere with save_to_disk and name the folder.",
        ) from error
    parts = [Part(split, Path(f["filename"]), "arrow") for split, part in splits.items() for f in part.cache_files]
    return Path(os.path.commonpath([part.path.parent for part in parts])), parts


@contextlib.contextmanager
def _read_errors(part: Part) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{part.path} cannot be read ({error}).", "Write or fetch it again.") from None


def _arrow(part: Part) -> Any:
    """The table of an Arrow file, memory-mapped."""
    import pyarrow as pa

    source = pa.memory_map(str(part.path))
    try:
        return pa.ipc.open_stream(source).read_all()
    except pa.ArrowInvalid:
        return pa.ipc.open_file(source).read_all()


def _schema(part: Part) -> Any:
    """Names and metadata of a file's columns."""
    import pyarrow.parquet as pq

    with _read_errors(part):
        return pq.read_schema(part.path) if part.kind == "parquet" else _arrow(part).schema


def _labels(part: Part, column: str) -> list[Any]:
    """All labels of a file: text, whole numbers, or None where there is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _read_errors(part):
        table = pq.read_table(part.path, columns=[column]) if part.kind == "parquet" else _arrow(part)
        kind = table.schema.field(column).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        fit = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string, pa.types.is_boolean, pa.types.is_null)
        if any(is_fit(kind) for is_fit in fit):
            return table.column(column).to_pylist()
    raise DataError(
        f"{part.path}: the column {printable(column)} holds {kind}, which is no label.",
        "Labels are text or whole numbers; name the right column: …?label=COLUMN.",
    )


class _Images:
    """The column of images of a file. Of a Parquet file two row groups are in memory, not more: rows are asked for in
    their order, by threads that are not far from one another."""

    def __init__(self, part: Part, column: str):
        self.part, self.column = part, column
        self._mutex = threading.Lock()
        self._file: Any = None
        self._groups: deque[tuple[range, Any]] = deque(maxlen=2)  # their rows, and their part of the column

    def read(self, row: int) -> bytes:
        """The bytes of an image's file. Raises `DataError` where there are none."""
        with self._mutex, _read_errors(self.part):
            rows, group = next((each for each in self._groups if row in each[0]), None) or self._load(row)
            value = group[row - rows.start].as_py()
        return _content(value)

    def _load(self, row: int) -> tuple[range, Any]:
        import pyarrow.parquet as pq

        if self.part.kind != "parquet":
            column = _arrow(self.part).column(self.column)
            self._groups.append((range(len(column)), column))
            return self._groups[-1]
        if self._file is None:
            self._file = pq.ParquetFile(self.part.path, memory_map=True)
        end = 0
        for number in range(self._file.metadata.num_row_groups):
            start, end = end, end + self._file.metadata.row_group(number).num_rows
            if start <= row < end:
                group = self._file.read_row_group(number, columns=[self.column]).column(self.column)
                self._groups.append((range(start, end), group))
                return self._groups[-1]
        raise ValueError(f"row {row:,} is not there")


def _features(schema: Any) -> dict:
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return features if isinstance(features, dict) else {}
    except (KeyError, TypeError, ValueError):
        return {}


def _candidates(schema: Any, what: str) -> list[str]:
    kind = {"image": "Image", "label": "ClassLabel"}[what]
    features = _features(schema)
    return [
        name for name in schema.names if isinstance(features.get(name), dict) and features[name].get("_type") == kind
    ]


def _class_names(schema: Any, label: str) -> list[str] | None:
    feature = _features(schema).get(label)
    names = feature.get("names") if isinstance(feature, dict) else None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _content(value: Any) -> bytes:
    content = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(content, bytes):
        return content
    path = value.get("path") if isinstance(value, dict) else None
    if path:
        raise DataError(f"It names the file {printable(str(path))[:200]}, which is not embedded.", REMEDY)
    raise DataError("It holds no image.", REMEDY)


def load(name: DatasetName, on_progress: Progress) -> Dataset:
    return store.load(HuggingFaceSet(name), on_progress)
