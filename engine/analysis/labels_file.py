"""`labels.csv`: corrections as a table that other tools write and read. No torch.

    index,file,old_label,new_label,excluded
    17,cat/0017.png,cat,dog,no
    5,cat/0005.png,cat,,yes

One line an image that is corrected. Text that a spreadsheet would take for a formula has an apostrophe in front
(`engine.files.spreadsheet_safe`); it is known again when the file is read. Every line of a file that was made elsewhere
is checked against the data set before anything is taken from it: a label that another tool moved by one line would
otherwise be a correction.
"""

import csv
import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from engine import files
from engine.datasets.base import Dataset
from engine.errors import ConfigError
from engine.runs.corrections import EXCLUDED, Corrections, Decision

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("index", "file", "old_label", "new_label", "excluded")

NEEDED = ("index", "new_label")

YES, NO = ("yes", "true", "1", "x"), ("no", "false", "0", "")

MOST_BYTES = 64 << 20

NAMED = 5  # lines at fault that an error names

REMEDY = "Correct the file; docs/triage.md says what stands in each column. Nothing of it was taken."


def table(dataset: Dataset, corrections: Corrections) -> "pd.DataFrame":
    """A row for each image that is corrected, in the order of the images."""
    import pandas as pd

    images = sorted({*corrections.labels, *corrections.excluded})
    classes, labels = dataset.classes, dataset.train_labels
    return pd.DataFrame(
        [
            {
                "index": i,
                "file": dataset.file_name("train", i) or "",
                "old_label": classes[labels[i]],
                "new_label": classes[corrections.labels[i]] if i in corrections.labels else "",
                "excluded": "yes" if i in corrections.excluded else "no",
            }
            for i in images
        ],
        columns=list(COLUMNS),
    )


def text(dataset: Dataset, corrections: Corrections) -> str:
    return files.spreadsheet_safe(table(dataset, corrections)).to_csv(index=False, lineterminator="\n")


def read(content: bytes, dataset: Dataset, name: str = "labels.csv") -> dict[int, Decision]:
    """What a file decides, by training image: a class, `EXCLUDED`, or None where a line has neither. Commas, semicolons
    or tabs part the columns, which stand in any order; others beside them are not read.

    Raises `ConfigError` that names the lines at fault.
    """
    rows = _rows(content, name)
    reader = _Reader(dataset)
    decisions: dict[int, Decision] = {}
    lines: dict[int, int] = {}
    faults = []
    for number, row in rows:
        try:
            index, decision = reader.read(row)
            if index in decisions:
                raise ValueError(f"image {index} stands in line {lines[index]}, too")
            decisions[index], lines[index] = decision, number
        except ValueError as error:
            faults.append(f"line {number}: {error}")
    if faults:
        more = f"; and {len(faults) - NAMED:,} lines more" if faults[NAMED:] else ""
        raise ConfigError(f"{name} cannot be taken: {'; '.join(faults[:NAMED])}{more}.", REMEDY)
    if not decisions:
        raise ConfigError(f"{name} has no line with an image.", REMEDY)
    return decisions


def _rows(content: bytes, name: str) -> list[tuple[int, Mapping[str, str]]]:
    """Each line below the names of the columns, with its number in the file."""
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{name} has {len(content):,} bytes, and {MOST_BYTES:,} are the most.", REMEDY)
    try:
        decoded = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} is no text of UTF-8 ({error}).", "Save it as CSV in UTF-8.") from None
    head = decoded.split("\n", 1)[0]
    separator = max(",;\t", key=head.count)
    try:
        lines = csv.reader(io.StringIO(decoded, newline=""), delimiter=separator, strict=True)
        columns = [column.strip().lower().lstrip("'") for column in next(lines, [])]
        if missing := [column for column in NEEDED if column not in columns]:
            raise ConfigError(f"{name} has no column {' and none '.join(missing)} in its first line.", REMEDY)
        if len({*columns} & {*COLUMNS}) < len([column for column in columns if column in COLUMNS]):
            raise ConfigError(f"{name} has a column twice.", REMEDY)
        rows = []
        for cells in lines:
            if any(cell.strip() for cell in cells):
                if len(cells) != len(columns):
                    raise ConfigError(
                        f"{name}, line {lines.line_num}: {len(cells)} columns, where the first has {len(columns)}.",
                        REMEDY,
                    )
                rows.append((lines.line_num, dict(zip(columns, cells, strict=True))))
        return rows
    except csv.Error as error:
        raise ConfigError(f"{name} is no CSV file ({error}).", REMEDY) from None


class _Reader:
    """Reads lines against a data set; texts are compared as they are, and as a spreadsheet was given them."""

    def __init__(self, dataset: Dataset):
        self._dataset = dataset
        self._classes = _by_text(dataset.classes)

    def read(self, row: Mapping[str, str]) -> tuple[int, Decision]:
        """Image and decision of a line; raises `ValueError` that says what is wrong with it."""
        index, n = row["index"].strip(), len(self._dataset.train_labels)
        if not (index.isascii() and index.isdecimal() and len(index) < 16 and int(index) < n):
            raise ValueError(f"«{index:.40}» is no training image from 0 to {n - 1}")
        image = int(index)
        given = self._dataset.classes[self._dataset.train_labels[image]]
        known = self._dataset.file_name("train", image)
        for column, is_right, what in (
            ("file", lambda cell: known is None or cell in (known, _quoted(known)), f"comes from {known}"),
            ("old_label", lambda cell: cell in (given, _quoted(given)), f"has the label {given}"),
        ):
            self._compare(row, column, is_right, image, what)
        label, excluded = self._label(row["new_label"]), self._flag(row.get("excluded", ""))
        if excluded and label is not None:
            raise ValueError(f"image {image} has a new label and is excluded at once")
        if excluded:
            return image, EXCLUDED
        return image, None if label == self._dataset.train_labels[image] else label

    def _compare(
        self, row: Mapping[str, str], column: str, is_right: Callable[[str], bool], image: int, what: str
    ) -> None:
        cell = row.get(column, "")
        if cell and not is_right(cell):
            raise ValueError(f"image {image} {what}, not «{cell:.80}»: the file is of other data")

    def _label(self, cell: str) -> int | None:
        if not cell.strip():
            return None
        labels = self._classes.get(cell) or self._classes.get(cell.strip())
        if labels is None:
            raise ValueError(f"there is no class «{cell:.80}»")
        if len(labels) > 1:
            raise ValueError(f"«{cell:.80}» may be either of two classes")
        return labels[0]

    def _flag(self, cell: str) -> bool:
        if (answer := cell.strip().lower()) not in (*YES, *NO):
            raise ValueError(f"«{cell:.40}» says neither yes nor no")
        return answer in YES


def _quoted(text: str) -> str:
    return f"'{text}" if files.SPREADSHEET_FORMULA.match(text) else text


def _by_text(classes: tuple[str, ...]) -> dict[str, list[int]]:
    """Numbers of classes by what may stand for them in a file."""
    numbers: dict[str, list[int]] = {}
    for number, name in enumerate(classes):
        for each in {name, _quoted(name)}:
            numbers.setdefault(each, []).append(number)
    return numbers
