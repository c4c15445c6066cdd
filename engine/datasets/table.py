"""A table of images: CSV, TSV or Parquet with the columns path, label and, where the data say so, split.

    table:FILE?root=DIR&side=64&…

Paths are relative to `root`, by default the table's own folder, and lead to regular files below it. A table is
explicit, so that a row which cannot be used is an error that names it, where a file that is no image is a problem
that is listed. Other columns are not read. Fields are separated by commas, or by what stands in the first line in
their place: semicolons, as spreadsheets of many languages write, or tabs.
"""

import csv
import os
import stat
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from engine.datasets import store
from engine.datasets.base import Dataset
from engine.datasets.builder import Builder
from engine.datasets.decoding import decode_items
from engine.datasets.names import OWN, DatasetName, absolute, canonical, image_options, printable
from engine.datasets.source import (
    TESTS,
    Item,
    Progress,
    Stamp,
    class_order,
    digests_of,
    read,
    sha256_of,
    split_of,
    stamp_of,
)
from engine.errors import DataError

NEEDED, OPTIONAL = ("path", "label"), ("split",)

NAMES = (*NEEDED, *OPTIONAL)

MOST_OF_A_LINE = 1 << 16  # characters that are looked at for the sign between fields

PARQUET = (".parquet", ".pq")

SHOWN = 5  # rows at fault that an error names

Row = tuple[int, str, str, str]  # number in the file, path, label, split ("" where there is no such column)


class Table:
    """The `Source` of a table."""

    def __init__(self, name: DatasetName):
        self.options = image_options(name, OWN[name.kind])
        self.place = self.file = absolute(name.place)
        place = dict(name.options).get("root", "")
        self.root = absolute(place) if place else self.file.parent
        self.name = canonical(name)
        self.title = self.file.stem
        self.description = f"Table {self.file}, images below {self.root}"
        table = stamp_of(self.file, os.path.relpath(self.file, self.root))
        if not os.path.isdir(self.root):
            raise DataError(f"There is no folder {self.root}, below which the table's images are.", "Correct root=.")
        self._rows, unused = _read_rows(self.file)
        self._unused = unused
        if not self._rows:
            raise DataError(f"{self.file} has no rows.", "Write one row for each image: path,label.")
        images = _check_rows(self.file, self.root, self._rows)
        self.stamps: Sequence[Stamp] = (table, *images)
        self.listing, self.quick = digests_of(self.stamps)

    def write(self, builder: Builder, on_progress: Progress) -> None:
        table, *images = self.stamps
        builder.sha256[table.path] = sha256_of(self.root, table)
        for column in self._unused:
            builder.problem("ignored", column, f"is a column of {self.file.name} that is not read")
        names = {label for _, _, label, _ in self._rows}
        builder.classes = sorted(names, key=class_order(names))
        numbers = {label: number for number, label in enumerate(builder.classes)}
        tests = next((name for name in TESTS if any(split == name for *_, split in self._rows)), None)
        rows = []
        for (number, path, label, split), stamp in zip(self._rows, images, strict=True):
            if split in TESTS and split != tests:
                builder.problem("ignored", path, f"row {number}: split {split}, beside {tests}")
            else:
                rows.append((stamp, numbers[label], "test" if split == tests else split))
        splits = split_of([split for *_, split in rows], [label for _, label, _ in rows], self.options, builder)
        items = [
            Item(split, label, stamp.path, partial(read, self.root, stamp))
            for (stamp, label, _), split in zip(rows, splits, strict=True)
        ]
        items.sort(key=lambda item: item.split != "train")
        decode_items(builder, items, self.options, on_progress)


def _read_rows(file: Path) -> tuple[list[Row], list[str]]:
    """Rows and the names of columns that are not read. Raises `DataError` that names column or row."""
    if file.suffix.lower() in PARQUET:
        columns, cells = _parquet(file)
    else:
        columns, cells = _csv(file)
    missing = [name for name in NEEDED if name not in columns]
    if missing:
        there = ", ".join(f"«{printable(column)[:40]}»" for column in columns[:20]) or "none"
        remedy = "Name the columns path, label and, if you like, split, in the first row."
        if file.suffix.lower() in PARQUET:
            remedy += f" Images that are in Parquet files themselves are hf:{printable(str(file.parent))}."
        raise DataError(f"{file} has no column {' and no column '.join(missing)}; its columns are {there}.", remedy)
    twice = sorted({name for name in (*NEEDED, *OPTIONAL) if columns.count(name) > 1})
    if twice:
        raise DataError(f"{file} has the column {twice[0]} twice.", "Rename one of them.")
    places = [columns.index(name) for name in NEEDED]
    split = columns.index("split") if "split" in columns else None
    rows, faults = [], []
    for number, row in cells:
        if len(row) != len(columns):
            faults.append(f"row {number} has {len(row)} fields, where the first row has {len(columns)}")
            continue
        path, label = (row[place] for place in places)
        rows.append((number, path, label.strip(), "" if split is None else row[split].strip().lower() or "(empty)"))
    _raise(file, faults, len(rows) + len(faults))
    return rows, [name for name in columns if name not in (*NEEDED, *OPTIONAL)]


def _csv(file: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            first = lines.readline(MOST_OF_A_LINE)
            lines.seek(0)
            reader = csv.reader(lines, delimiter=_delimiter(file, first), strict=True)
            rows = []
            for row in reader:
                if row:
                    rows.append((reader.line_num, row))
    except csv.Error as error:
        raise DataError(
            f"{file}, row {reader.line_num}, is no CSV ({error}).", "Save the table as CSV again."
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no UTF-8 text (byte {error.start:,}).", "Save the table as UTF-8.") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}).", "Make it readable.") from None
    if not rows:
        return [], iter(())
    return [name.strip().lower() if name.strip().lower() in NAMES else name for name in rows[0][1]], iter(rows[1:])


def _delimiter(file: Path, first: str) -> str:
    if file.suffix.lower() == ".tsv":
        return "\t"
    return "," if "," in first else next((sign for sign in ";\t" if sign in first), ",")


def _parquet(file: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(file).names
        table = pq.read_table(file, columns=[name for name in names if name in NAMES])
        columns = [_cells(file, name, table.column(name)) for name in table.column_names]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{file} is no Parquet file that can be read ({error}).", "Write it again.") from None
    unread = [name for name in names if name not in table.column_names]
    cells = ([*row, *("" for _ in unread)] for row in zip(*columns, strict=True))
    return [*table.column_names, *unread], enumerate(cells, 1)


def _cells(file: Path, name: str, column: Any) -> list[str]:
    """A column of a Parquet file as text; "" where a cell is empty or no number."""
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        hint = f" Images that are in Parquet files themselves are hf:{printable(str(file.parent))}."
        raise DataError(f"{file}: the column {name} holds {kind}, not text.", f"Write paths and labels as text.{hint}")
    return ["" if cell is None or cell != cell else str(cell) for cell in column.to_pylist()]


def _check_rows(file: Path, root: Path, rows: Sequence[Row]) -> list[Stamp]:
    """A stamp for each row, or a `DataError` that names the first rows at fault."""
    real = os.path.realpath(root)
    inside: dict[str, bool] = {}
    first: dict[str, int] = {}
    stamps, faults = [], []
    for number, path, label, split in rows:
        stamp, fault = None, None
        if not path:
            fault = "has no path"
        elif not label:
            fault = "has no label"
        elif split not in ("", "train", *TESTS):
            fault = f"has the split «{printable(split)[:40]}», which is none of train, {', '.join(TESTS)}"
        else:
            stamp, fault = _stamp(real, path, inside)
            if stamp is not None and first.setdefault(stamp.path, number) != number:
                fault = f"names {printable(stamp.path)} again, as row {first[stamp.path]} does"
        if fault is None and stamp is not None:
            stamps.append(stamp)
        else:
            faults.append(f"row {number} {fault}")
    _raise(file, faults, len(rows))
    return stamps


def _stamp(root: str, path: str, inside: dict[str, bool]) -> tuple[Stamp | None, str | None]:
    """The file's stamp, its path relative to `root`; or what is wrong. `inside`: folders looked at already."""
    shown = printable(path)[:200]
    full = os.path.normpath(os.path.join(root, path))
    folder = os.path.dirname(full)
    if full == root or os.path.commonpath([root, full]) != root:
        return None, f"leads out of the root: {shown}"
    try:
        if folder not in inside:
            inside[folder] = os.path.realpath(folder) == folder
        status = os.lstat(full)
    except PermissionError as error:
        return None, f"leads where nothing may be read ({error.strerror}): {shown}"
    except (OSError, ValueError):
        return None, f"leads to no file: {shown}"
    if stat.S_ISLNK(status.st_mode) or not inside[folder]:
        return None, f"leads through a link, which is not followed: {shown}"
    if not stat.S_ISREG(status.st_mode):
        return None, f"leads to no regular file: {shown}"
    return Stamp(os.path.relpath(full, root), status.st_size, status.st_mtime_ns), None


def _raise(file: Path, faults: list[str], rows: int) -> None:
    if faults:
        more = f"; and {len(faults) - SHOWN:,} more" if len(faults) > SHOWN else ""
        raise DataError(
            f"{file}: {len(faults):,} of {rows:,} rows cannot be used: {'; '.join(faults[:SHOWN])}{more}.",
            "Correct or remove these rows; paths are relative to the table's folder, or to root=.",
        )


def load(name: DatasetName, on_progress: Progress) -> Dataset:
    return store.load(Table(name), on_progress)
