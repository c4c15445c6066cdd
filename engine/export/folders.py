"""The data set itself with the corrections in it: a folder a class, and Hugging Face's image folder.

Training images that the corrections exclude are left out, those with another label stand in its class; the test images
stay as they are. Files are copied byte for byte; images that have none become PNG.

    folder          train/CLASS/NAME   test/CLASS/NAME   about.json
    huggingface     train/NNNNNN-NAME  train/metadata.parquet   test/…   about.json

Hugging Face's `datasets` wants the same types in the metadata of every split, which no JSON or CSV tells of a column
that is empty in one of them, as scores are in the test split: so it is Parquet, with the classes in it.

`about.json` has the classes in the order of their numbers, and the folder of each: a name that no folder can have
(«a/b», «..») is written otherwise there.
"""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from engine.errors import ConfigError
from engine.export import places, tables
from engine.export.material import Material, Piece
from engine.export.pictures import Pictures, numbered
from engine.export.places import Distinct, Tree, safe
from engine.export.tables import OnProgress

if TYPE_CHECKING:
    import pyarrow as pa


def write_folder(material: Material, pictures: Pictures, tree: Tree, on_progress: OnProgress) -> None:
    classes, distinct = folders(material.dataset.classes), {}
    for done, (split, index) in enumerate(kept(material), 1):
        place = f"{split}/{classes[material.labels[split][index]]}"
        name = distinct.setdefault(place, Distinct()).name(pictures.name(split, index))
        tree.write(f"{place}/{name}", pictures.read(split, index))
        on_progress(done, material.rows)
    places.write_json(tree, "about.json", {**_about(material), "folders": classes})


def write_huggingface(material: Material, pictures: Pictures, tree: Tree, on_progress: OnProgress) -> None:
    import pyarrow.parquet as pq

    left, done, schema = _kept_by_split(material), 0, _huggingface_schema(material)
    for split, indices in left.items():
        for index in indices:
            tree.write(numbered(pictures, split, index), pictures.read(split, index))
            done += 1
            on_progress(done, material.rows)
        with tree.piecewise(f"{split}/metadata.parquet") as file, pq.ParquetWriter(file, schema) as writer:
            for piece in (piece for piece in material.pieces() if piece.split == split):
                writer.write_batch(_huggingface_batch(piece, pictures, schema))
    places.write_json(tree, "about.json", _about(material))


def _huggingface_schema(material: Material) -> "pa.Schema":
    """That of the table, with the image's file in front, and the label as one of the classes."""
    import pyarrow as pa

    table = tables.schema_of(material)
    names = [field for field in table if field.name != "label"]
    fields = [pa.field("file_name", pa.string()), pa.field("label", pa.int64()), pa.field("given_label", pa.string())]
    label = {"names": list(material.dataset.classes), "_type": "ClassLabel"}
    features = json.dumps({"info": {"features": {"label": label}}}, ensure_ascii=False)
    return pa.schema([*fields, *names], metadata={**table.metadata, b"huggingface": features})


def _huggingface_batch(piece: Piece, pictures: Pictures, schema: "pa.Schema") -> "pa.RecordBatch":
    import pyarrow as pa

    columns, indices = piece.columns(), range(piece.start, piece.stop)
    columns |= {
        "file_name": [numbered(pictures, piece.split, index).partition("/")[2] for index in indices],
        "given_label": columns["label"],
        "label": piece.material.labels[piece.split][piece.start : piece.stop],
    }
    batch = tables.batch_of(columns, len(indices), schema)
    return batch if columns["excluded"] is None else batch.filter(pa.array([not out for out in columns["excluded"]]))


def folders(classes: tuple[str, ...]) -> list[str]:
    """The folder of each class."""
    distinct = Distinct()
    return [distinct.name(safe(name)) for name in classes]


def kept(material: Material) -> Iterator[tuple[str, int]]:
    """Split and index of every image that the corrections leave in."""
    for split, indices in _kept_by_split(material).items():
        yield from ((split, index) for index in indices)


def _kept_by_split(material: Material) -> dict[str, list[int]]:
    """Raises `ConfigError` where nothing is left of a split."""
    out = {"train": material.corrections.excluded}
    left = {
        split: [i for i in range(len(material.dataset.labels(split))) if i not in out.get(split, ())]
        for split in material.splits
    }
    for split, indices in left.items():
        if not indices:
            raise ConfigError(
                f"The corrections of run {material.run.id} leave no {split} image.", "Take some of the exclusions back."
            )
    return left


def _about(material: Material) -> dict:
    corrections = material.corrections
    names = material.dataset.classes
    changed = {str(index): names[label] for index, label in sorted(corrections.labels.items())}
    return {**material.about(), "corrected": changed, "excluded": sorted(corrections.excluded)}
