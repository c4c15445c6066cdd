"""A folder that Label Studio imports: `tasks.json`, the labelling configuration `config.xml`, and `images/`.

Each task has the image, what the table says of it, and the model's label as a prediction; where a person has corrected
the label, that is an annotation. The images are named by Label Studio's address for files of its own machine,
`/data/local-files/?d=…`, relative to the folder of the export: start it with
LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=OUT.
"""

import json
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from engine.export.material import Material, Piece
from engine.export.pictures import Pictures, all_of, numbered
from engine.export.places import Tree, text, write_json
from engine.export.tables import OnProgress

ADDRESS = "/data/local-files/?d="

CONTROL, OBJECT = "label", "image"  # names in the configuration, which every result repeats


def write(material: Material, pictures: Pictures, tree: Tree, on_progress: OnProgress) -> None:
    for done, (split, index) in enumerate(all_of(pictures, material.splits), 1):
        tree.write(f"images/{numbered(pictures, split, index)}", pictures.read(split, index))
        on_progress(done, material.rows)
    with text(tree, "tasks.json") as file:
        file.write("[")
        comma = "\n"
        for piece in material.pieces():
            for task in _tasks(piece, pictures):
                file.write(f"{comma}{json.dumps(task, ensure_ascii=False, allow_nan=False)}")
                comma = ",\n"
        file.write("\n]\n")
    tree.write("config.xml", config(material.dataset.classes).encode())
    write_json(tree, "about.json", material.about())


def config(classes: tuple[str, ...]) -> str:
    """The labelling configuration: one choice of the classes for an image. Names of classes are escaped."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name=OBJECT, value=f"${OBJECT}")
    choices = ElementTree.SubElement(view, "Choices", name=CONTROL, toName=OBJECT, choice="single")
    for name in classes:
        ElementTree.SubElement(choices, "Choice", value=name)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def _tasks(piece: Piece, pictures: Pictures):
    for row in piece.records():
        path = f"images/{numbered(pictures, row['split'], row['index'])}"
        task: dict[str, Any] = {"data": {OBJECT: f"{ADDRESS}{quote(path)}", **row}}
        if row["prediction"] is not None:
            prediction = {"model_version": piece.material.run.id, "score": row["confidence"]}
            task["predictions"] = [prediction | {"result": [_result(row["prediction"])]}]
        if row["corrected_label"] is not None:
            task["annotations"] = [{"result": [_result(row["corrected_label"])]}]
        yield task


def _result(label: str) -> dict[str, Any]:
    return {"from_name": CONTROL, "to_name": OBJECT, "type": "choices", "value": {"choices": [label]}}
