"""A folder that FiftyOne reads: `fo.Dataset.from_dir(dataset_dir=OUT, dataset_type=fo.types.FiftyOneDataset)`.

    metadata.json   the fields of a sample and their types; `info` says where all of it comes from
    samples.json    one object an image
    data/           the images

In the form without a version, which FiftyOne reads from those who have no database of its own (its importer hands it to
`LegacyFiftyOneDatasetImporter`); tests/test_exports.py has version 1.22 read it. Names of fields hold letters, digits
and underscores there: the target `test:3.loss` is the field `score_test_3_loss`, and `info.fields` has both.
"""

import json
import re
from typing import Any

from engine.export.material import COLUMNS, Material, Piece, column_of
from engine.export.pictures import Pictures, all_of, numbered
from engine.export.places import Distinct, Tree, text, write_json
from engine.export.tables import OnProgress

CLASSIFICATION = "fiftyone.core.fields.EmbeddedDocumentField(fiftyone.core.labels.Classification)"

KINDS = {int: "IntField", float: "FloatField", str: "StringField", bool: "BooleanField"}

FIELDS = {  # of a sample, beside its labels and scores
    "index": int,
    "file": str,
    "loss": float,
    "note": str,
    "ticked": bool,
    "excluded": bool,
}

LABELS = {  # field: column of the table
    "ground_truth": "label",
    "prediction": "prediction",
    "suggestion": "suggested_label",
    "corrected": "corrected_label",
}


def write(material: Material, pictures: Pictures, tree: Tree, on_progress: OnProgress) -> None:
    scores = fields_of(material)
    for done, (split, index) in enumerate(all_of(pictures, material.splits), 1):
        tree.write(f"data/{numbered(pictures, split, index)}", pictures.read(split, index))
        on_progress(done, material.rows)
    with text(tree, "samples.json") as file:
        file.write('{"samples": [')
        comma = "\n"
        for piece in material.pieces():
            for sample in _samples(piece, pictures, scores):
                file.write(f"{comma}{json.dumps(sample, ensure_ascii=False, allow_nan=False)}")
                comma = ",\n"
        file.write("\n]}\n")
    kinds = {name: f"fiftyone.core.fields.{KINDS[kind]}" for name, kind in FIELDS.items()}
    kinds |= dict.fromkeys(LABELS, CLASSIFICATION) | dict.fromkeys(scores.values(), "fiftyone.core.fields.FloatField")
    metadata = {
        "name": material.run.id,
        "media_type": "image",
        "sample_fields": {"filepath": "fiftyone.core.fields.StringField", **kinds},
        "info": {**material.about(), "fields": {field: column for column, field in scores.items()}},
    }
    write_json(tree, "metadata.json", metadata)


def fields_of(material: Material) -> dict[str, str]:
    """The names of the score fields, by the column of the table."""
    distinct = Distinct()
    columns = map(column_of, material.targets)
    return {column: distinct.name(re.sub("[^a-z0-9]+", "_", column.lower()).strip("_")) for column in columns}


def _samples(piece: Piece, pictures: Pictures, scores: dict[str, str]):
    for row in piece.records():
        sample: dict[str, Any] = {
            "filepath": f"data/{numbered(pictures, row['split'], row['index'])}",
            "tags": [row["split"], *(row["tags"] or ())],
            "metadata": None,
        }
        sample |= {name: row[name] for name in FIELDS}
        for name, column in LABELS.items():
            sample[name] = _classification(row[column], row["confidence"] if column == "prediction" else None)
        yield sample | {field: row[column] for column, field in scores.items()}


def _classification(label: str | None, confidence: float | None) -> dict[str, Any] | None:
    if label is None:
        return None
    return {"_cls": "Classification", "label": label, "confidence": confidence, "tags": []}


assert FIELDS.keys() <= COLUMNS.keys() and set(LABELS.values()) <= COLUMNS.keys()
