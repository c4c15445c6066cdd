"""The formats, what each writes and about how much, and the one way to write any of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError
from engine.export import fiftyone, folders, label_studio, places, tables
from engine.export.material import COLUMNS, Material
from engine.export.pictures import Pictures
from engine.export.places import Tree
from engine.export.tables import OnProgress

A_CELL = 12  # bytes of a number, or of a short text, as text

A_ROW = 300  # bytes of one image's object in JSON, beside its scores and its notes


@dataclass(frozen=True)
class Format:
    """`title` and `says` are for people; `ending` of a file; `images`: of whom there are some in it. One of `table` and
    `tree` writes it."""

    title: str
    says: str
    ending: str
    table: Callable[[Material, Path, OnProgress], None] | None = None
    tree: Callable[[Material, Pictures, Tree, OnProgress], None] | None = None

    @property
    def images(self) -> bool:
        return self.tree is not None


FORMATS = {
    "parquet": Format(
        "Parquet",
        "A table, one row an image: label, what the model says, the score of each target, notes, ticks, corrections. "
        "Units, versions and checksums stand in the file. For pandas, Polars, DuckDB, Spotlight and Embedding Atlas.",
        ".parquet",
        table=tables.parquet,
    ),
    "csv": Format(
        "CSV",
        "The same table for spreadsheets. A text that a spreadsheet would run has an apostrophe in front; "
        "FILE.csv.json beside it has units, versions and checksums.",
        ".csv",
        table=tables.csv,
    ),
    "fiftyone": Format(
        "FiftyOne",
        "A folder for fiftyone.Dataset.from_dir: every image as a sample with its labels, prediction, tags and a field "
        "for the scores of each target.",
        ".zip",
        tree=fiftyone.write,
    ),
    "label-studio": Format(
        "Label Studio",
        "Tasks with the model's labels as predictions and the corrections as annotations, the labelling configuration, "
        "and the images.",
        ".zip",
        tree=label_studio.write,
    ),
    "folder": Format(
        "Corrected folder of images",
        "The data set with the corrections applied: a folder a class, excluded images left out. Files are copied as "
        "they are.",
        ".zip",
        tree=folders.write_folder,
    ),
    "huggingface": Format(
        "Hugging Face image folder",
        "The same corrected data set for datasets.load_dataset, with a metadata.parquet a split that has the "
        "table's columns.",
        ".zip",
        tree=folders.write_huggingface,
    ),
}


def nobody(done: int, of: int) -> None:
    """Progress that nobody watches."""


def format_named(name: str) -> Format:
    """Raises `ConfigError` for a format that there is not."""
    if name not in FORMATS:
        raise ConfigError(f"There is no format «{name:.40}».", f"Choose one of {', '.join(FORMATS)}.")
    return FORMATS[name]


def size(material: Material, name: str, pixels: bool = False) -> int:
    """Bytes, about: for what is asked before anything is written. Rather more than less."""
    format = format_named(name)
    rows, trained = material.rows, len(material.dataset.train_labels) * ("train" in material.splits)
    if name == "parquet":
        return rows * 80 + trained * 4 * len(material.targets)
    if name == "folder":
        text = 0
    else:
        text = rows * (A_ROW if format.images else A_CELL * len(COLUMNS)) + trained * 2 * A_CELL * len(material.targets)
    pictures = Pictures(material.dataset, pixels)
    return text + (sum(pictures.size(split) for split in material.splits) if format.images else 0)


def write(material: Material, name: str, out: Path, pixels: bool = False, on_progress: OnProgress = nobody) -> None:
    """Writes one of `FORMATS` to `out`: a file, or a folder, which is a zip where `out` ends in .zip. It is there whole
    or not at all. `pixels`: images as PNG of the pixels that the model saw, also where there are files.

    Raises `ConfigError` for a format that there is not, a place that is taken or that is not there, `StorageError`
    where the disk refuses it or is too full, `DataError` where an image's file is missing or changed, and what
    `on_progress` raises, which cancels.
    """
    format = format_named(name)
    out = Path(out)
    places.check(out, size(material, name, pixels))
    if format.table is not None:
        format.table(material, out, on_progress)
    elif format.tree is not None:
        with places.new_tree(out) as tree:
            format.tree(material, Pictures(material.dataset, pixels), tree, on_progress)
