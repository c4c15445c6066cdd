"""One row an image, as Parquet and as CSV.

Parquet has the unit of each score, and where all of it comes from, in the metadata of its columns and of the file
(`replay_explorer`, JSON). CSV has room for neither: that stands in FILE.csv.json beside it. In CSV a text that a
spreadsheet would take for a formula has an apostrophe in front (`files.spreadsheet_safe`, and `files.spreadsheet_plain`
takes it away again); tags are separated by «; ».
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import files
from engine.export.material import COLUMNS, Material, Piece, column_of
from engine.export.places import check, new_file
from engine.targets import target_function

if TYPE_CHECKING:
    import pyarrow as pa

OnProgress = Callable[[int, int], None]  # images done, of so many; may raise, which cancels

ABOUT = b"replay_explorer"  # the key of a Parquet file's metadata


def parquet(material: Material, out: Path, on_progress: OnProgress) -> None:
    import pyarrow.parquet as pq

    schema = schema_of(material)
    with new_file(out) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        done = 0
        for piece in material.pieces():
            writer.write_batch(batch_of(piece.columns(), piece.stop - piece.start, schema))
            done += piece.stop - piece.start
            on_progress(done, material.rows)


def schema_of(material: Material) -> "pa.Schema":
    """The table's columns, each with its meaning and unit; of a million rows and of none the same."""
    import pyarrow as pa

    kinds: dict[str, Any] = dict.fromkeys(COLUMNS, pa.string())
    kinds |= {"index": pa.int64(), "tags": pa.list_(pa.string()), "ticked": pa.bool_(), "excluded": pa.bool_()}
    kinds |= dict.fromkeys(("confidence", "probability", "loss"), pa.float64())
    fields = [pa.field(name, kinds[name], metadata={"meaning": text}) for name, text in COLUMNS.items()]
    for ref in material.targets:
        function = target_function(ref.function)
        said = {
            "unit": function.unit,
            "meaning": function.meaning(material.dataset.classes),
            "target": ref.title(material.dataset),
        }
        fields.append(pa.field(column_of(ref), pa.float32(), metadata=said))
    return pa.schema(fields, metadata={ABOUT: json.dumps(material.about(), ensure_ascii=False)})


def batch_of(columns: dict[str, Any], n: int, schema: "pa.Schema") -> "pa.RecordBatch":
    """`Piece.columns` of n images, in the types of the schema."""
    import pyarrow as pa

    arrays = [
        pa.nulls(n, field.type) if columns[field.name] is None else pa.array(columns[field.name], field.type)
        for field in schema
    ]
    return pa.record_batch(arrays, schema=schema)


def beside(out: Path) -> Path:
    """The file that says of a CSV what it is."""
    return out.with_name(f"{out.name}.json")


def csv(material: Material, out: Path, on_progress: OnProgress) -> None:
    """And beside it what it is."""
    check(beside(out))
    with new_file(out) as file:
        done = 0
        for piece in material.pieces():
            text = _frame(piece).to_csv(None, index=False, header=done == 0, lineterminator="\n")
            file.write(text.encode())
            done += piece.stop - piece.start
            on_progress(done, material.rows)
        about = json.dumps(material.about(), ensure_ascii=False, indent=1)
        with new_file(beside(out)) as description:
            description.write(about.encode())


def _frame(piece: Piece):
    import pandas as pd

    columns = piece.columns()
    if columns["tags"] is not None:
        columns["tags"] = ["; ".join(tags) for tags in columns["tags"]]
    n = piece.stop - piece.start
    full = {name: [None] * n if values is None else values for name, values in columns.items()}
    return files.spreadsheet_safe(pd.DataFrame(full))
