"""A run handed over: each format read by the library that it is for, and the images and numbers that are in it.

Those of `datasets`, `fiftyone` and `label-studio-sdk` run where these are installed: `make test-exports`.
"""

import csv
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from engine import files, space
from engine.__main__ import main
from engine.datasets import registry as datasets
from engine.datasets.torchvision_sets import import_torchvision
from engine.errors import ConfigError, DataError, IntegrityError, StorageError
from engine.export import folders, places
from engine.export import write as exports
from engine.export.fiftyone import fields_of
from engine.export.material import Material, column_of
from engine.jobs import export as jobs
from engine.jobs.export import Export
from engine.jobs.queue import JobQueue
from engine.runs import corrections as corrected
from engine.runs import notes
from engine.runs.corrections import Corrections
from engine.runs.run import Run
from tests.helpers import wait_for
from tests.images import folder, picture
from tests.made_up import SAMPLE, run_of

TRAIN = {"=cmd": 5, "b & <i>": 4, "third": 3}
NOTE = '=HYPERLINK("http://evil.example","click")'
KEYS = ["test:0.loss", "test:all.loss", "test:0.margin"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Iterator[Run]:
    """A run on files with names that other programs would run, with scores, ticks, a note and corrections."""
    place = tmp_path_factory.mktemp("hand-over")
    images = folder(place / "images" / "train", TRAIN).parent
    folder(images / "test", dict.fromkeys(TRAIN, 2))
    (images / "train" / "third" / "002.png").rename(images / "train" / "third" / "=1+1<script>.PNG")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPLAY_DATA_DIR", str(place / "data"))
        dataset = datasets.load(datasets.canonical(f"folder:{images}"))
        rng = np.random.default_rng(3)
        sets = {
            ("test:0", "test:all"): ("loss", rng.normal(size=(2, 12))),
            ("test:0",): ("margin", rng.normal(size=(1, 12))),
        }
        (place / "outputs").mkdir()
        run = run_of(place / "outputs", "made-up", sets, SAMPLE.replace(dataset=dataset.name))
        logits = np.array(run.manifest().train_logits())
        logits[[2, 10]] = [0, 0.5, 4], [3, 0, 1]  # two images of which the model says otherwise
        name = "model/train_logits.npy"
        run.add_files({name: files.write_npy(run.path / name, logits)})
        notes.tick(run, {1: True, 7: True}, 12)
        for index, note in enumerate((NOTE, "@SUM(1)", "+1+1", "-1+1", "\uff1d1"), 2):  # the last in full width
            notes.write_note(run, index, note)
        corrected.write(run, Corrections({0: 1, 9: 0}, frozenset({4})))
        yield run


@pytest.fixture
def material(made, monkeypatch) -> Material:
    monkeypatch.setenv("REPLAY_DATA_DIR", str(made.root.parent / "data"))
    return Material.of(made)


def written(material: Material, name: str, out: Path, **asked) -> Path:
    exports.write(material, name, out, **asked)
    assert [path for path in out.parent.iterdir() if path.name.startswith(files.TEMPORARY)] == []
    return out


# -- tables


def test_a_table_has_every_image_with_its_scores_in_their_unit(material, tmp_path):
    out = written(material, "parquet", tmp_path / "table.parquet")
    frame, dataset, record = pd.read_parquet(out), material.dataset, material.record
    train, test = frame[frame["split"] == "train"], frame[frame["split"] == "test"]
    assert (len(train), len(test)) == (12, 6) and list(train["index"]) == list(range(12))
    for ref, row in zip(material.targets, material.scores, strict=True):
        assert np.array_equal(train[column_of(ref)], row) and row.any() and test[column_of(ref)].isna().all()
    for split, logits in (("train", record.train_logits()), ("test", record.test_logits())):
        rows, labels = frame[frame["split"] == split], dataset.labels(split)
        shifted = np.exp(logits.astype(np.float64))
        loss = -np.log(shifted[np.arange(len(labels)), labels] / shifted.sum(1))
        assert np.allclose(rows["loss"], loss, rtol=1e-12) and np.allclose(np.exp(-rows["loss"]), rows["probability"])
        assert np.allclose(rows["confidence"], shifted.max(1) / shifted.sum(1), rtol=1e-12)
        assert rows["prediction"].tolist() == [dataset.classes[c] for c in logits.argmax(1)]
        assert rows["label"].tolist() == [dataset.classes[c] for c in labels]
        suggested = rows["suggested_label"]
        assert (suggested.isna() == (rows["prediction"] == rows["label"])).all()
    assert train["suggested_label"].dropna().to_dict() == {2: "third", 10: "=cmd"}
    assert train["file"].tolist() == list(dataset.train_names) and train["note"][2] == NOTE
    assert test["file"].tolist() == list(dataset.test_names)
    assert train.index[train["ticked"].astype(bool)].tolist() == [1, 7]
    assert train.index[train["excluded"].astype(bool)].tolist() == [4]
    assert train["corrected_label"].dropna().to_dict() == {0: dataset.classes[1], 9: dataset.classes[0]}
    assert train["tags"].map(list).tolist()[:5] == [["relabelled"], ["ticked"], [], [], ["excluded"]]

    schema = pq.read_schema(out)
    assert [schema.field(f"score:{key}").metadata[b"unit"] for key in KEYS] == [
        *[b"nats per unit of example weight"] * 2,
        b"logits per unit of example weight",
    ]
    about = json.loads(schema.metadata[b"replay_explorer"])
    assert about["run"] == "made-up" and about["data_fingerprint"] == dataset.fingerprint
    for name, sha256 in about["sha256"].items():
        assert files.sha256_of(made_path := record.folder / name) == sha256, made_path
    assert len(about["sha256"]) == 6 and str(record.folder.parent) not in json.dumps(about)


def test_csv_says_the_same_and_a_spreadsheet_runs_nothing_of_it(material, tmp_path):
    out = written(material, "csv", tmp_path / "table.csv")
    with out.open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    numbers = pd.to_numeric(pd.Series(cells), errors="coerce").notna()
    assert not [c for c, n in zip(cells, numbers, strict=True) if not n and c[:1] in tuple("=+-@\t\r\n\uff1d")]
    assert f"'{NOTE}" in cells and "'=cmd" in cells
    table = pd.read_parquet(written(material, "parquet", tmp_path / "table.parquet"))
    read = files.spreadsheet_plain(pd.read_csv(out))
    assert list(read.columns) == list(table.columns)
    for name in read.columns:
        if name == "tags":
            assert read[name].fillna("").tolist() == [
                "; ".join(tags) if tags is not None else "" for tags in table[name]
            ]
        elif table[name].dtype.kind == "f":
            assert np.allclose(read[name], table[name].astype(float), rtol=1e-7, equal_nan=True), name
        else:
            assert read[name].astype(object).where(read[name].notna(), None).tolist() == [
                None if pd.isna(value) else value for value in table[name]
            ], name
    assert json.loads((tmp_path / "table.csv.json").read_text())["targets"]["test:0.margin"]["unit"].startswith(
        "logits"
    )


def test_scores_are_a_table_by_training_image_and_target(material):
    frame = material.record.score_sets.to_pandas()
    assert list(frame.columns) == KEYS and frame.index.tolist() == list(range(12))
    assert np.array_equal(frame["test:0.margin"], material.scores[2]) and (frame.dtypes == np.float32).all()
    assert frame.attrs["units"]["test:all.loss"] == "nats per unit of example weight"
    assert list(material.record.score_sets.to_pandas(["test:0.margin"]).columns) == ["test:0.margin"]
    with pytest.raises(ConfigError, match="no scores for the target"):
        material.record.score_sets.to_pandas(["test:5.loss"])


@pytest.mark.slow  # trains
def test_what_attribute_gives_is_an_array_and_a_table():
    import engine
    from tests.helpers import RECIPE, images, net

    x, y = images()
    trained = engine.train(net(), x, y, RECIPE, device="cpu", check=False)
    scores = engine.attribute(trained, x[:5], y[:5], function="margin", targets=[[0], [1, 4]], window=0.5)
    frame = scores.to_pandas()
    assert frame.shape == (26, 2) and np.array_equal(frame.to_numpy().T, scores) and scores.any()
    assert frame.attrs["unit"] == "logits per unit of example weight" and frame.attrs["targets"] == [[0], [1, 4]]
    assert frame.attrs["from_step"] == 4 and isinstance(scores, np.ndarray)
    for other in (scores[:1], scores * 2, scores.T):
        with pytest.raises(ConfigError, match="targets are not known"):
            other.to_pandas()


def test_targets_and_splits_are_chosen_by_name(made, material):
    assert [ref.key for ref in Material.of(made, ["test:0"]).targets] == ["test:0.loss", "test:0.margin"]
    assert [ref.key for ref in Material.of(made, ["test:0.margin", "test:all"]).targets] == KEYS[1:]
    assert Material.of(made, split="test").rows == 6
    for asked, said in (
        (["test:3"], "no scores for test:3"),
        (["test:99"], "out of range"),
        (["nothing"], "no target"),
    ):
        with pytest.raises(ConfigError, match=said):
            Material.of(made, asked)
    with pytest.raises(ConfigError, match="no split"):
        Material.of(made, split="validation")


@pytest.mark.slow
def test_pieces_leave_no_seam(material, tmp_path, monkeypatch):
    """A million rows pass through in pieces: what is written does not depend on where they end."""
    whole = {name: written(material, name, tmp_path / f"whole-{name}.zip") for name in ("fiftyone", "huggingface")}
    csv_file, parquet = (written(material, name, tmp_path / f"whole.{name}") for name in ("csv", "parquet"))
    monkeypatch.setattr("engine.export.material.ROWS", 5)
    assert len(list(material.pieces())) == 5
    assert written(material, "csv", tmp_path / "in-pieces.csv").read_bytes() == csv_file.read_bytes()
    pieces = written(material, "parquet", tmp_path / "in-pieces.parquet")
    assert pq.read_table(pieces).equals(pq.read_table(parquet))
    for name, archive in whole.items():
        with zipfile.ZipFile(archive) as one, zipfile.ZipFile(written(material, name, tmp_path / f"{name}.zip")) as two:
            assert one.namelist() == two.namelist()
            for member in one.namelist():
                assert member.endswith(".parquet") or one.read(member) == two.read(member)


# -- images


def test_the_corrected_folder_has_the_files_as_they_are_in_their_new_classes(material, tmp_path):
    out, dataset = written(material, "folder", tmp_path / "out"), material.dataset
    about = json.loads((out / "about.json").read_text())
    names = about["folders"]
    assert about["corrected"] == {"0": dataset.classes[1], "9": dataset.classes[0]} and about["excluded"] == [4]
    assert len(set(names)) == 3 and not any(set(name) & set('=<>&/"') for name in names)
    source, copied = made_images(material), sorted(p for p in out.rglob("*") if p.is_file() and p.name != "about.json")
    assert len(copied) == 12 + 6 - 1
    contents = {path.read_bytes(): path for path in copied}
    for split in ("train", "test"):
        for index, name in enumerate(dataset.train_names if split == "train" else dataset.test_names):
            content = (source / name).read_bytes()
            if split == "train" and index == 4:
                assert content not in contents
                continue
            label = material.corrections.labels.get(index) if split == "train" else None
            label = dataset.labels(split)[index] if label is None else label
            assert contents.pop(content).parent == out / split / names[label]
    assert not contents
    assert sorted(p.name for p in (out / "train" / names[0]).iterdir())[-1].endswith(".png")

    again = datasets.load(datasets.canonical(f"folder:{out}"))  # read by the engine itself
    assert np.bincount(again.train_labels).tolist() == [4, 5, 2] and len(again.test_labels) == 6


@pytest.mark.slow  # loads torchvision
def test_torchvision_opens_the_corrected_folder(material, tmp_path):
    opened = import_torchvision().datasets.ImageFolder(written(material, "folder", tmp_path / "out") / "train")
    assert np.bincount(opened.targets).tolist() == [4, 5, 2] and opened[0][0].size == (12, 10)


def made_images(material: Material) -> Path:
    return Path(material.dataset.name.partition(":")[2])


def test_a_zip_holds_what_the_folder_does(material, tmp_path):
    out, archive = written(material, "folder", tmp_path / "out"), written(material, "folder", tmp_path / "out.zip")
    with zipfile.ZipFile(archive) as members:
        assert members.testzip() is None
        inside = {name: members.read(name) for name in members.namelist()}
    assert inside == {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_pixels_are_written_where_there_are_no_files_and_where_they_are_asked_for(material, tmp_path, root):
    out = written(material, "folder", tmp_path / "pixels", pixels=True)
    found = sorted(np.asarray(Image.open(p)).tobytes() for p in out.rglob("*.png"))
    images = [material.dataset.train_images[i] for i in range(12) if i != 4] + [*material.dataset.test_images]
    assert found == sorted(image.tobytes() for image in images)
    few = Material.of(run_of(root, "grey", {}), split="test")
    out = written(few, "folder", tmp_path / "grey")
    first = np.asarray(Image.open(out / "test" / few.dataset.classes[few.dataset.test_labels[0]] / "000000.png"))
    assert np.array_equal(first, few.dataset.test_images[0, ..., 0])


@pytest.mark.parametrize(
    "text", ["a/b", "../../etc", "..", "", " . ", "=1", "-rf", "<img src=x>", "con", "x" * 300, "ä" * 200, "\0", "\\x"]
)
def test_a_name_of_a_class_is_one_safe_component(text, tmp_path):
    name = places.safe(text)
    assert name and name not in (".", "..") and not set(name) & set("/\\\0<>") and name[0] not in "-.~="
    (tmp_path / name).mkdir()
    assert os.path.realpath(tmp_path / name).startswith(str(tmp_path)) and len(os.listdir(tmp_path)) == 1


def test_names_that_become_the_same_are_told_apart():
    assert folders.folders(("a/b", "a:b", "A_B", "..", "")) == ["a_b", "a_b-2", "A_B-3", "_", "_-2"]


# -- other people's programs


def test_fiftyone_samples_have_their_images_and_no_number_that_is_none(material, tmp_path):
    out = written(material, "fiftyone", tmp_path / "out")
    samples = json.loads((out / "samples.json").read_text(), parse_constant=pytest.fail)["samples"]
    assert len(samples) == 18 and samples[4]["tags"] == ["train", "excluded"]
    table = pd.read_parquet(written(material, "parquet", tmp_path / "table.parquet"))
    for sample, row in zip(samples, table.itertuples(), strict=True):
        assert not os.path.isabs(sample["filepath"]) and ".." not in sample["filepath"]
        assert (out / sample["filepath"]).read_bytes() == (made_images(material) / row.file).read_bytes()
        assert sample["ground_truth"]["label"] == row.label and sample["prediction"]["label"] == row.prediction
        assert sample["prediction"]["confidence"] == row.confidence and sample["ground_truth"]["confidence"] is None
    assert samples[0]["corrected"]["label"] == material.dataset.classes[1] and samples[1]["corrected"] is None
    for column, field in fields_of(material).items():  # the shortest text of a float32, which is no float64's
        assert [sample[field] for sample in samples[:12]] == table[column][:12].astype(str).astype(float).tolist()
        assert all(sample[field] is None for sample in samples[12:])


def test_fiftyone_reads_it(material, tmp_path):
    fo = pytest.importorskip("fiftyone", reason="fiftyone is not installed: make test-exports")
    out = written(material, "fiftyone", tmp_path / "out")
    try:
        dataset = fo.Dataset.from_dir(dataset_dir=str(out), dataset_type=fo.types.FiftyOneDataset)
    except fo.core.config.FiftyOneConfigError as error:  # its database is fetched when it is installed
        pytest.skip(f"fiftyone has no database here: {error}")
    try:
        assert len(dataset) == 18 and dataset.count_sample_tags()["train"] == 12
        first = dataset.match(fo.ViewField("index") == 0).match_tags("train").first()
        assert first.ground_truth.label == "=cmd" and first.corrected.label == material.dataset.classes[1]
        assert os.path.isfile(first.filepath) and first.prediction.confidence > 0
        for column, field in fields_of(material).items():
            values = dataset.match_tags("train").sort_by("index").values(field)
            row = material.scores[[column_of(ref) for ref in material.targets].index(column)]
            assert np.allclose(values, row, rtol=1e-6)
        assert dataset.info["targets"]["test:0.margin"]["unit"].startswith("logits")
        assert isinstance(dataset.get_field("loss"), fo.FloatField)
    finally:
        dataset.delete()


def test_label_studio_tasks_name_choices_and_images_that_are_there(material, tmp_path):
    out = written(material, "label-studio", tmp_path / "out")
    tasks = json.loads((out / "tasks.json").read_text(), parse_constant=pytest.fail)
    view = ElementTree.fromstring((out / "config.xml").read_text())
    assert [choice.get("value") for choice in view.iter("Choice")] == list(material.dataset.classes)
    assert len(tasks) == 18 and "<i>" not in (out / "config.xml").read_text()
    (image,), (choices,) = view.findall("Image"), view.findall("Choices")
    assert choices.get("toName") == image.get("name") and image.get("value") == "$image"
    for task in tasks:
        (path,) = parse_qs(urlsplit(task["data"]["image"]).query)["d"]
        assert not os.path.isabs(path)
        assert (out / path).read_bytes() == (made_images(material) / task["data"]["file"]).read_bytes()
        assert task["predictions"][0]["result"][0]["value"]["choices"] == [task["data"]["prediction"]]
        assert task["predictions"][0]["score"] == task["data"]["confidence"]
        for result in (each["result"][0] for each in (*task["predictions"], *task.get("annotations", ()))):
            assert (result["from_name"], result["to_name"]) == (choices.get("name"), image.get("name"))
    assert tasks[9]["annotations"][0]["result"][0]["value"]["choices"] == ["=cmd"] and "annotations" not in tasks[1]


def test_label_studio_accepts_the_configuration_and_the_tasks(material, tmp_path):
    interface = pytest.importorskip(
        "label_studio_sdk.label_interface", reason="label-studio-sdk is not installed: make test-exports"
    )
    out = written(material, "label-studio", tmp_path / "out")
    labels = interface.LabelInterface((out / "config.xml").read_text())
    labels.validate()
    for task in json.loads((out / "tasks.json").read_text()):  # validate_task of version 2.1 calls itself wrongly
        assert all(task["data"][each.value_name] for each in labels.objects)
        assert all(labels.validate_prediction(each) for each in task["predictions"])
        assert all(labels.validate_annotation(each) for each in task.get("annotations", ()))


def test_datasets_of_hugging_face_opens_the_folder(material, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hf = pytest.importorskip("datasets", reason="datasets is not installed: make test-exports")
    out = written(material, "huggingface", tmp_path / "out")
    opened = hf.load_dataset("imagefolder", data_dir=str(out), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in opened.items()} == {"train": 11, "test": 6}
    assert opened["train"].features["label"].names == list(material.dataset.classes)
    kept = [index for index in range(12) if index != 4]
    rows = sorted(opened["train"], key=lambda row: row["index"])
    assert [row["index"] for row in rows] == kept
    assert [row["label"] for row in rows] == material.labels["train"][kept].tolist()
    assert np.allclose([row["score:test:0.margin"] for row in rows], material.scores[2][kept])
    sizes = {row["image"].size for row in rows}
    assert sizes == {(12, 10)} and opened["test"][0]["score:test:0.margin"] is None


def test_the_metadata_of_every_split_has_the_same_types(material, tmp_path):
    """Else `datasets` refuses them."""
    out = written(material, "huggingface", tmp_path / "out")
    schemas = [pq.read_schema(out / split / "metadata.parquet") for split in ("train", "test")]
    assert schemas[0].equals(schemas[1]) and schemas[0].names[:2] == ["file_name", "label"]
    table = pq.read_table(out / "train" / "metadata.parquet").to_pandas()
    assert all((out / "train" / name).is_file() for name in table["file_name"]) and 4 not in set(table["index"])
    assert table["label"].tolist() == material.labels["train"][table["index"]].tolist()
    assert table["given_label"].tolist() == [
        material.dataset.classes[c] for c in material.dataset.train_labels[table["index"]]
    ]
    label = json.loads(schemas[0].metadata[b"huggingface"])["info"]["features"]["label"]
    assert label["names"] == list(material.dataset.classes)


# -- what can go wrong


@pytest.mark.slow
def test_what_is_there_is_not_replaced_and_what_stops_leaves_nothing(material, tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    for name in exports.FORMATS:
        with pytest.raises(ConfigError, match="is there already"):
            exports.write(material, name, taken)
        with pytest.raises(ConfigError, match="There is no folder"):
            exports.write(material, name, tmp_path / "nowhere" / "out")

        def stop(done: int, of: int) -> None:
            if done >= of / 2:
                raise KeyboardInterrupt

        for out in (tmp_path / "half", tmp_path / "half.zip"):
            with pytest.raises(KeyboardInterrupt):
                exports.write(material, name, out, on_progress=stop)
    assert os.listdir(tmp_path) == ["taken"] and taken.read_text() == "mine"
    for odd in ("\0", "x" * 400):
        with pytest.raises((ConfigError, StorageError)):
            exports.write(material, "csv", tmp_path / odd)
    (tmp_path / "table.csv.json").write_text("mine")
    with pytest.raises(ConfigError, match="table.csv.json is there already"):
        exports.write(material, "csv", tmp_path / "table.csv")
    assert not (tmp_path / "table.csv").exists()


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(material, tmp_path, monkeypatch):
    monkeypatch.setattr(space, "disk_free", lambda path: space.RESERVE + 100)
    for name in exports.FORMATS:
        with pytest.raises(StorageError, match="MB free"):
            exports.write(material, name, tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_a_source_file_that_is_gone_or_another_is_named_and_nothing_is_left(material, tmp_path):
    path = made_images(material) / material.dataset.train_names[3]
    content = path.read_bytes()
    try:
        for harm, said in ((path.unlink, "is missing"), (lambda: picture(99).save(path), "another content")):
            harm()
            with pytest.raises(DataError, match=said) as error:
                exports.write(material, "folder", tmp_path / "out")
            assert "--pixels" in error.value.remedy and os.listdir(tmp_path) == []
        written(material, "folder", tmp_path / "out", pixels=True)
    finally:
        path.write_bytes(content)


@pytest.mark.slow
def test_scores_that_are_no_numbers_are_missing_and_those_of_other_data_are_refused(material, tmp_path):
    odd = np.array(material.scores[0])
    odd[[0, 1]] = np.nan, np.inf
    vars(material)["scores"] = [odd, *material.scores[1:]]
    for name in ("fiftyone", "label-studio"):
        out = written(material, name, tmp_path / name)
        text = "".join(path.read_text() for path in out.glob("*.json"))
        assert "NaN" not in text and "Infinity" not in text
    samples = json.loads((tmp_path / "fiftyone" / "samples.json").read_text())["samples"]
    assert [sample["score_test_0_loss"] is None for sample in samples] == [True] * 2 + [False] * 10 + [True] * 6
    assert pd.read_csv(written(material, "csv", tmp_path / "t.csv"))["score:test:0.loss"].isna().sum() == 7


@pytest.mark.slow
@pytest.mark.parametrize(
    "call", [*(["export", "--format", name, "--out", "OUT"] for name in exports.FORMATS), ["report", "--out", "OUT"]]
)
def test_a_run_on_data_that_have_changed_is_not_handed_over(call, made, material, tmp_path, capsys):
    path = made_images(material) / material.dataset.test_names[0]
    content = path.read_bytes()
    words = [call[0], made.id, *call[1:-1], str(tmp_path / "out"), "--outputs", str(made.root)]
    try:
        picture(7).save(path)
        datasets.clear()
        assert main(words) == 1 and not list(tmp_path.iterdir())
        said = capsys.readouterr().err
        assert "has changed since run made-up was made" in said and "000.png has another content" in said
    finally:
        path.write_bytes(content)
        datasets.clear()
    assert main(words) == 0


def test_corrections_of_images_that_are_not_there_are_named(made, material, tmp_path):
    path = made.path / corrected.NAME
    before = path.read_bytes()
    try:
        path.write_bytes(before + b'{"decided": [[400, null, "excluded"]]}\n')
        with pytest.raises(IntegrityError):
            Material.of(made)
    finally:
        path.write_bytes(before)


# -- as a command, and as a job


def test_the_command_writes_it_and_says_so(made, material, tmp_path, capsys):
    call = ["export", made.id, "--outputs", str(made.root), "--format", "parquet"]
    assert main([*call, "--out", str(tmp_path / "t.parquet"), "--targets", "test:0.margin", "--split", "train"]) == 0
    assert "12 images, 1 target" in capsys.readouterr().out
    assert pq.read_schema(tmp_path / "t.parquet").names[-1] == "score:test:0.margin"
    for words in (["--out", str(tmp_path / "t.parquet")], ["--out", str(tmp_path / "u"), "--targets", "test:3"]):
        assert main([*call, *words]) == 2
    assert "Traceback" not in capsys.readouterr().err and os.listdir(tmp_path) == ["t.parquet"]


@pytest.mark.slow  # loads torch in the worker
def test_the_job_writes_below_the_run_and_cleaning_deletes_it(made, material, root):
    shutil.copytree(made.path, root / made.id)
    run = Run.open(root, made.id)
    queue = JobQueue.of(root)
    with pytest.raises(ConfigError, match="no format"):
        queue.submit(run.id, Export("word"))
    for job in (Export("folder"), Export("csv", ("test:0.margin",), "train"), Export("folder", pixels=True)):
        queue.submit(run.id, job)
        wait_for(queue)
        assert run.manifest().error is None and run.status == "finished"
    names = jobs.of_run(run, run.manifest().files)
    assert names == ["made-up-folder-000.zip", "made-up-csv-000.csv", "made-up-folder-001.zip"]
    with zipfile.ZipFile(run.path / "exports" / names[0]) as archive:
        assert len(archive.namelist()) == 18
    assert run.storage().sizes()["exports"] > 0
    assert run.storage().clean(("exports",)) > 0 and jobs.of_run(run, run.manifest().files) == []
    assert run.status == "finished" and run.manifest().score_sets.targets()
