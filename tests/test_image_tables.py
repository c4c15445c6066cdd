"""Data sets from tables, arrays, torchvision's files and Hugging Face's: what they become, and what is refused."""

import json
import os
import shutil
import struct
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from engine.datasets import registry, store
from engine.datasets.base import Dataset
from engine.errors import ConfigError, DataError
from tests.images import folder


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("REPLAY_DATA_DIR", str(tmp_path / "data"))
    registry.clear()
    return tmp_path / "data" / "prepared"


def left_behind(data: Path) -> list[str]:
    return [path.name for path in data.iterdir() if not path.name.startswith(".lock-")] if data.exists() else []


def refused(name: str, match: str, data: Path) -> None:
    with pytest.raises((DataError, ConfigError), match=match) as caught:
        registry.load(name)
    assert caught.value.remedy and left_behind(data) == []


# -- tables


@pytest.fixture
def images(tmp_path) -> Path:
    return folder(tmp_path / "images", {"a": 6, "b": 6})


def rows_of(root: Path) -> list[tuple[str, str]]:
    return [(str(path.relative_to(root)), path.parent.name.upper()) for path in sorted(root.rglob("*.png"))]


def write(path: Path, rows: list[tuple], header: tuple[str, ...] = ("path", "label")) -> Path:
    pd.DataFrame(rows, columns=list(header)).to_csv(path, index=False)
    return path


def same_as_files(dataset: Dataset, root: Path) -> bool:
    return all(
        np.array_equal(image, np.asarray(Image.open(root / dataset.file_name(split, index))))
        for split in ("train", "test")
        for index, image in enumerate(dataset.images(split))
    )


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_a_table_names_images_labels_and_splits(tmp_path, images, kind):
    rows = [(path, label, "test" if path.endswith("5.png") else "train") for path, label in rows_of(images)]
    frame = pd.DataFrame(rows, columns=["path", "label", "split"])
    table = tmp_path / f"labels.{kind}"
    if kind == "parquet":
        frame.to_parquet(table)
    else:
        frame.to_csv(table, index=False, sep="\t" if kind == "tsv" else ",")
    dataset = registry.load(f"table:{table}?root={images}")
    assert dataset.classes == ("A", "B") and dataset.test_names == ["a/005.png", "b/005.png"]
    assert len(dataset.train_labels) == 10 and same_as_files(dataset, images)
    assert dataset.title == "labels" and dataset.name == f"table:{table}?root={images}"


def test_a_table_without_splits_beside_its_images(images):
    table = write(images / "labels.csv", rows_of(images))
    dataset = registry.load(f"table:{table}?test=0.5")
    assert np.bincount(dataset.test_labels).tolist() == [3, 3] and same_as_files(dataset, images)


def test_columns_that_are_not_read_and_files_that_are_no_images_are_listed(images):
    (images / "a" / "000.png").write_bytes(b"broken")
    rows = [(path, label, 7) for path, label in rows_of(images)]
    table = write(images / "labels.csv", rows, ("path", "label", "age"))
    dataset = registry.load(f"table:{table}")
    found = {(problem["kind"], problem["file"]) for problem in store.problems(dataset)}
    assert found == {("unreadable", "a/000.png"), ("ignored", "age")}


TABLES = {
    "missing path": ("path,label\na/000.png,A\n,B\n", "row 3 has no path"),
    "missing label": ("path,label\na/000.png,\n", "row 2 has no label"),
    "missing file": ("path,label\na/000.png,A\na/nope.png,B\n", "row 3 leads to no file: a/nope.png"),
    "folder": ("path,label\na,A\n", "row 2 leads to no regular file: a"),
    "outside": ("path,label\n../images/../x.png,A\n", "row 2 leads out of the root"),
    "absolute": ("path,label\n/etc/hostname,A\n", "row 2 leads out of the root"),
    "through a link": ("path,label\nlinked/000.png,A\n", "row 2 leads through a link"),
    "a link": ("path,label\na/link.png,A\n", "row 2 leads through a link"),
    "unknown columns": ("file,class\na/000.png,A\n", "no column path and no column label.*«file», «class»"),
    "column twice": ("path,label,label\na/000.png,A,B\n", "the column label twice"),
    "duplicate rows": (
        "path,label\na/000.png,A\nb/000.png,B\n./a/000.png,A\n",
        "row 4 names a/000.png again, as row 2",
    ),
    "unknown split": ("path,label,split\na/000.png,A,dev\n", "row 2 has the split «dev»"),
    "empty split": ("path,label,split\na/000.png,A,\n", "row 2 has the split «.empty.»"),
    "short row": ("path,label\na/000.png\n", "row 2 has 1 fields"),
    "empty": ("", "no column path"),
    "header alone": ("path,label\n", "has no rows"),
    "quotes": ('path,label\n"a/000.png,A\n', "row 2, is no CSV"),
    "a zero byte": ("path,label\na\0.png,A\n", "row 2 leads to no file"),
    "two signs": ("path;label,split\na/000.png;A\n", "no column path and no column label.*«path;label»"),
    "one label": ("path,label\na/000.png,A\na/001.png,A\n", "only one class, «A»"),
}


@pytest.mark.parametrize("case", TABLES)
def test_what_is_wrong_with_a_table_names_file_and_row(tmp_path, images, data, case):
    text, said = TABLES[case]
    (images / "linked").symlink_to(images / "b")
    (images / "a" / "link.png").symlink_to("000.png")
    table = images / "labels.csv"
    table.write_text(text)
    refused(f"table:{table}", said, data)


@pytest.mark.parametrize("sign", [";", "\t"])
def test_a_table_as_a_spreadsheet_writes_it(images, sign):
    """Byte order mark, other signs between fields, capitals, Windows's ends of lines, and a blank after a label."""
    lines = [f"Path{sign} Label", *(f'"{path}"{sign}{label} ' for path, label in rows_of(images))]
    (images / "labels.csv").write_text("\r\n".join(lines), encoding="utf-8-sig", newline="")
    dataset = registry.load(f"table:{images / 'labels.csv'}")
    assert dataset.classes == ("A", "B") and len(dataset.train_labels) + len(dataset.test_labels) == 12


def test_a_file_that_is_named_may_be_a_link(tmp_path, images):
    table = write(images / "labels.csv", rows_of(images))
    (tmp_path / "link.csv").symlink_to(table)
    np.savez(tmp_path / "x.npz", **arrays())
    (tmp_path / "link.npz").symlink_to("x.npz")
    for name in (f"table:{tmp_path / 'link.csv'}?root={images}", f"arrays:{tmp_path / 'link.npz'}"):
        dataset = registry.load(name)
        os.utime(table, ns=(1, 1)), os.utime(tmp_path / "x.npz", ns=(1, 1))
        assert registry.reload(name).fingerprint == dataset.fingerprint


PARQUETS = {
    "images for paths": ({"path": [b"\x89PNG"] * 2, "label": ["A", "B"]}, "column path holds binary.*hf:"),
    "images and no paths": ({"image": [b"\x89PNG"] * 2, "label": ["A", "B"]}, "no column path;.*hf:"),
    "lists": ({"path": ["a/000.png"] * 2, "label": [[1], [2]]}, "column label holds list"),
    "no number": ({"path": ["a/000.png"] * 2, "label": [1.0, float("nan")]}, "row 2 has no label"),
    "nothing": ({"path": ["a/000.png"] * 2, "label": ["A", None]}, "row 2 has no label"),
}


@pytest.mark.parametrize("case", PARQUETS)
def test_what_is_wrong_with_a_parquet_table_names_column_or_row(images, data, case):
    columns, said = PARQUETS[case]
    pq.write_table(pa.table(columns), images / "labels.parquet")
    refused(f"table:{images / 'labels.parquet'}", said, data)


def test_rows_at_fault_are_counted_and_the_first_are_named(images, data):
    table = write(images / "labels.csv", [(f"no{n}.png", "A") for n in range(30)])
    refused(f"table:{table}", "30 of 30 rows cannot be used: row 2 .*row 6 .*; and 25 more", data)


def test_tables_that_are_no_text_no_parquet_or_not_there(images, data):
    (images / "latin.csv").write_bytes(b"path,label\ncaf\xe9.png,A\n")
    refused(f"table:{images / 'latin.csv'}", "no UTF-8", data)
    (images / "x.parquet").write_bytes(b"PAR1 no")
    refused(f"table:{images / 'x.parquet'}", "no Parquet", data)
    refused(f"table:{images / 'nowhere.csv'}", "There is no file", data)
    refused(f"table:{images}", "is no file", data)
    table = write(images / "labels.csv", rows_of(images))
    refused(f"table:{table}?root=/nowhere", "There is no folder /nowhere", data)
    refused(f"table:{table}?rot=/nowhere", "no option rot", data)


def test_a_label_that_changes_in_the_table_is_another_data_set(images):
    table = write(images / "labels.csv", rows_of(images))
    before = registry.load(f"table:{table}")
    write(table, [(path, "B" if path == "a/000.png" else label) for path, label in rows_of(images)])
    after = registry.reload(f"table:{table}")
    assert after.fingerprint != before.fingerprint
    assert store.changes(after.name, before.fingerprint) == ["labels.csv has another content"]


# -- arrays


def arrays(**changes) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    values = {
        "images": rng.integers(0, 256, (20, 9, 7, 3), np.uint8),
        "labels": np.arange(20) % 4,
        "test_images": rng.integers(0, 256, (8, 9, 7, 3), np.uint8),
        "test_labels": np.arange(8) % 4,
        "classes": np.array(["a", "b", "c", "d"]),
    }
    return {key: value for key, value in (values | changes).items() if value is not None}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_taken_as_they_are(tmp_path, save):
    values = arrays()
    save(tmp_path / "digits.npz", **values)
    dataset = registry.load(f"arrays:{tmp_path / 'digits.npz'}")
    for split, prefix in (("train", ""), ("test", "test_")):
        assert np.array_equal(dataset.images(split), values[f"{prefix}images"])
        assert np.array_equal(dataset.labels(split), values[f"{prefix}labels"])
    assert dataset.classes == ("a", "b", "c", "d") and dataset.file_name("train", 3) == "images[3]"
    assert isinstance(dataset.train_images.base, np.memmap)


def test_arrays_without_test_images_or_classes_or_channels(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (20, 9, 7), np.uint8)
    np.savez(tmp_path / "x.npz", images=grey, labels=np.arange(20) % 2)
    dataset = registry.load(f"arrays:{tmp_path / 'x.npz'}?test=0.3&seed=5")
    assert dataset.train_images.shape == (14, 9, 7, 1) and dataset.classes == ("0", "1")
    for split in ("train", "test"):
        for index, image in enumerate(dataset.images(split)):
            number = int(dataset.file_name(split, index).removeprefix("images[").rstrip("]"))
            assert np.array_equal(image[..., 0], grey[number]) and dataset.labels(split)[index] == number % 2
    np.savez(tmp_path / "z.npz", images=grey, labels=np.arange(20) % 2 * 200_000)
    dataset = registry.load(f"arrays:{tmp_path / 'z.npz'}")
    assert dataset.classes == ("0", "200000") and store.problems(dataset) == [], "numbers between are no classes"
    np.savez(tmp_path / "y.npz", images=grey, labels=np.array(["no", "yes"] * 10))
    assert registry.load(f"arrays:{tmp_path / 'y.npz'}").classes == ("no", "yes")


FLOATS, OBJECTS = np.zeros((20, 9, 7, 3)), np.array([{}] * 20, object)
ARRAYS = {
    "floats": (arrays(images=FLOATS), "images has the type float64, not uint8"),
    "channels first": (arrays(images=np.zeros((20, 3, 9, 7), np.uint8)), "images has the shape .20, 3, 9, 7."),
    "one image": (arrays(images=np.zeros((9, 7), np.uint8)), "images has the shape"),
    "four channels": (arrays(images=np.zeros((20, 9, 7, 4), np.uint8)), "images has the shape"),
    "no images": (arrays(images=None), "images is not there; there are classes, labels"),
    "no labels": (arrays(labels=None), "labels is not there"),
    "none": (arrays(images=np.zeros((0, 9, 7), np.uint8), labels=np.zeros(0, int)), "images holds no image"),
    "test labels alone": (arrays(test_images=None), "test_images is not there, but test_labels is"),
    "no test labels": (arrays(test_labels=None), "test_labels is not there"),
    "lengths": (arrays(labels=np.arange(19) % 4), "labels has the shape .19,., where images has 20"),
    "test size": (arrays(test_images=np.zeros((8, 7, 7, 3), np.uint8)), "test_images has images of .7, 7, 3."),
    "float labels": (arrays(labels=np.zeros(20)), "labels has the type float64"),
    "negative": (arrays(labels=np.arange(20) - 1), "labels has the label -1"),
    "objects": (arrays(labels=OBJECTS), "labels holds Python objects"),
    "object images": (arrays(images=OBJECTS), "images holds Python objects"),
    "beyond classes": (arrays(classes=np.array(["a", "b"])), "labels has the label 3, where classes has 2"),
    "classes twice": (arrays(classes=np.array(["a", "b", "a", "d"])), "classes names a class twice"),
    "class numbers": (arrays(classes=np.arange(4)), "classes has the type int64"),
    "mixed labels": (arrays(test_labels=np.array(["a"] * 8)), "test_labels is of another kind"),
    "huge side": (
        arrays(images=np.zeros((2, 1, 5000), np.uint8), labels=np.arange(2)),
        "images has images of .1, 5000.; sides",
    ),
    "fortran": (arrays(images=np.asfortranarray(np.zeros((20, 9, 7, 3), np.uint8))), "images is in Fortran"),
    "one-hot": (arrays(labels=np.eye(4, dtype=int)[np.arange(20) % 4]), "labels has the shape .20, 4.*argmax"),
    "truths": (arrays(labels=np.arange(20) > 9), "labels has the type bool.*labels.astype.int"),
    "bytes": (arrays(labels=np.array([b"a", b"b"] * 10)), "labels has the type .S1.*labels.astype.str"),
    "no name": (arrays(classes=np.array(["a", "", "c", "d"])), "classes has an empty text at 1"),
    "no text": (arrays(classes=np.full(4, 0x7FFFFFFF, np.uint32).view("<U1")), "classes holds what is no text"),
    "half a character": (arrays(classes=np.full(4, 0xDC00, np.uint32).view("<U1")), "classes holds what is no text"),
    "one class": (arrays(labels=np.zeros(20, int), test_labels=np.zeros(8, int)), "only one class, «a»"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_what_is_wrong_with_arrays_names_file_and_field(tmp_path, data, case):
    values, said = ARRAYS[case]
    np.savez(tmp_path / "x.npz", **values)
    refused(f"arrays:{tmp_path / 'x.npz'}", f"x.npz: {said}" if case != "one class" else said, data)


def test_files_that_are_no_arrays(tmp_path, data):
    path = tmp_path / "x.npz"
    path.write_bytes(b"no zip")
    refused(f"arrays:{path}", "no .npz file", data)
    np.savez(path, **arrays())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused(f"arrays:{path}", "no .npz file", data)
    np.savez(path, **arrays())
    damaged = bytearray(path.read_bytes())
    damaged[1500] ^= 255  # a pixel: the zip's checksum finds it
    path.write_bytes(damaged)
    refused(f"arrays:{path}", "no .npz file.*CRC", data)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", b"\x93NUMPY\x01\x00\xff\xff{'descr': '|u1'")
        archive.writestr("labels.npy", b"x")
    refused(f"arrays:{path}", "images has no header", data)
    for shape, said in (("(-1, 9, 7)", "shape .-1, 9, 7."), ("(20, 9, 7)", "no .npz file.*ends before")):
        np.savez(path, **arrays(images=None, test_images=None, test_labels=None))
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("images.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
        refused(f"arrays:{path}", said, data)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels", b"x")
    refused(f"arrays:{path}", "labels stands in it twice", data)
    refused(f"arrays:{path}?side=64", "no option side", data)


# -- torchvision


def idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes())


def mnist_files(raw: Path, prefix: str = "", third: str = "t10k", first: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    values = {}
    for part, n in (("train", 30), (third, 12)):
        values[part] = rng.integers(0, 256, (n, 28, 28), np.uint8)
        idx(raw / f"{prefix}{part}-images-idx3-ubyte", values[part])
        idx(raw / f"{prefix}{part}-labels-idx1-ubyte", (np.arange(n) % 10 + first).astype(np.uint8))
    return values


@pytest.mark.parametrize("name", ["MNIST", "KMNIST", "FashionMNIST"])
def test_torchvisions_files_that_are_there_are_used(tmp_path, name):
    values = mnist_files(tmp_path / "data" / name / "raw")
    dataset = registry.load(f"torchvision:{name}")
    assert np.array_equal(dataset.train_images[..., 0], values["train"]) and len(dataset.classes) == 10
    assert dataset.test_labels.tolist() == [*range(10), 0, 1] and dataset.file_name("test", 3) == "test[3]"


def test_emnist_is_upright(tmp_path):
    values = mnist_files(tmp_path / "data" / "EMNIST" / "raw", "emnist-letters-", "test", 1)
    dataset = registry.load("torchvision:EMNIST?split=letters")
    assert np.array_equal(dataset.train_images[..., 0], values["train"].transpose(0, 2, 1))
    assert dataset.classes == tuple("abcdefghij")  # its labels count from 1, and 0 is called N/A


def test_prepared_torchvision_sets_need_no_torch(tmp_path):
    mnist_files(tmp_path / "data" / "MNIST" / "raw")
    registry.load("torchvision:MNIST")
    code = "import sys; from engine.datasets import load; load('torchvision:MNIST'); print('torch' in sys.modules)"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_stl10_and_its_channels(tmp_path):
    raw = tmp_path / "elsewhere" / "stl10_binary"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (20, 3, 96, 96), np.uint8)
    for part, n, images in (("train", 20, train), ("test", 10, train[:10])):
        (raw / f"{part}_X.bin").write_bytes(images.tobytes())
        (raw / f"{part}_y.bin").write_bytes((np.arange(n) % 10 + 1).astype(np.uint8).tobytes())
    (raw / "unlabeled_X.bin").write_bytes(b"")
    (raw / "class_names.txt").write_text("\n".join("airplane bird car cat deer dog horse monkey ship truck".split()))
    with pytest.raises(DataError, match="torchvision cannot read STL10"):  # its checksums are those of the real one
        registry.load(f"torchvision:STL10?root={tmp_path / 'elsewhere'}")
    from engine.datasets.torchvision_sets import import_torchvision

    kind = import_torchvision().datasets.STL10
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "_check_integrity", lambda self: True)
        dataset = registry.load(f"torchvision:STL10?root={tmp_path / 'elsewhere'}")
    # torchvision's files hold columns first, and it turns them
    assert np.array_equal(dataset.train_images[0], train[0].transpose(2, 1, 0))
    assert dataset.classes[0] == "airplane" and dataset.train_labels[:3].tolist() == [0, 1, 2]


def test_without_a_network_the_folder_to_fill_is_named(tmp_path, data, monkeypatch):
    from engine.datasets.torchvision_sets import import_torchvision

    def fail(*args, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(import_torchvision().datasets.utils, "_urlretrieve", fail)
    name = "torchvision:CIFAR10"
    with pytest.raises(DataError, match="CIFAR10 is not in .*data, and could not be downloaded") as caught:
        registry.load(name)
    assert str(tmp_path / "data" / "cifar-10-batches-py" / "data_batch_1") in caught.value.remedy
    assert left_behind(data) == []


@pytest.mark.parametrize(
    "name, said",
    [
        ("torchvision:ImageNet", "is none of torchvision:MNIST"),
        ("torchvision:MNIST?split=letters", "option split for EMNIST alone"),
        ("torchvision:EMNIST?split=all", "option split for EMNIST alone"),
        ("torchvision:MNIST?side=32", "no option side"),
    ],
)
def test_torchvision_names_that_are_none(name, said, data):
    refused(name, said, data)


# -- Hugging Face


def hugging_face_table(images: Path, names: list[str] | None) -> pa.Table:
    paths = sorted(images.rglob("*.png"))
    column = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    labels: list = [path.parent.name for path in paths]
    feature: dict = {"_type": "Value", "dtype": "string"}
    if names is not None:
        labels, feature = [names.index(label) for label in labels], {"_type": "ClassLabel", "names": names}
    features = {"photo": {"_type": "Image"}, "kind": feature}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    return pa.table({"photo": column, "kind": labels}).replace_schema_metadata(metadata)


def save_to_disk(table: pa.Table, folder: Path) -> None:
    folder.mkdir(parents=True)
    with pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as sink:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))


def test_a_folder_of_save_to_disk(tmp_path, images):
    test = folder(tmp_path / "more", {"a": 2, "b": 1})
    save_to_disk(hugging_face_table(images, ["b", "a"]), tmp_path / "saved" / "train")
    save_to_disk(hugging_face_table(test, ["b", "a"]), tmp_path / "saved" / "test")
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    dataset = registry.load(f"hf:{tmp_path / 'saved'}?label=kind")
    assert dataset.classes == ("b", "a") and np.bincount(dataset.train_labels).tolist() == [6, 6]
    assert np.array_equal(dataset.test_images[2], np.asarray(Image.open(test / "b" / "000.png")))
    assert dataset.file_name("test", 2) == "data-00000-of-00001.arrow[2]"


@pytest.mark.parametrize("names", [None, ["a", "b"]])
def test_a_folder_of_parquet_files(tmp_path, images, names):
    (tmp_path / "hub" / "data").mkdir(parents=True)
    pq.write_table(hugging_face_table(images, names), tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    dataset = registry.load(f"hf:{tmp_path / 'hub'}?image=photo&label=kind&test=0.5&side=8")
    assert dataset.classes == ("a", "b") and dataset.train_images.shape == (6, 8, 8, 3)


def test_row_groups_of_a_parquet_file_are_read_one_after_the_other(tmp_path, images):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for place, rows in ((whole, 100), (parts, 5)):
        place.mkdir()
        pq.write_table(hugging_face_table(images, None), place / "train.parquet", row_group_size=rows)
    one, other = (registry.load(f"hf:{place}?image=photo&label=kind") for place in (whole, parts))
    assert one.fingerprint == other.fingerprint and len(one.train_labels) == 10
    assert pq.ParquetFile(parts / "train.parquet").metadata.num_row_groups == 3


def test_hugging_face_folders_that_are_none(tmp_path, images, data):
    refused(f"hf:{images}", "neither a folder that save_to_disk wrote", data)
    refused("hf:someone/nothing", "no folder here|cannot be had from the hub", data)
    saved = tmp_path / "saved"
    save_to_disk(hugging_face_table(images, None), saved)
    refused(f"hf:{saved}", "no column label; its columns are photo, kind", data)
    refused(f"hf:{saved}?label=nope", "no column nope", data)
    refused(f"hf:{saved}?label=kind&color=blue", "color must be", data)
    (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../../x.arrow"}]}))
    refused(f"hf:{saved}?label=kind", "outside its folder", data)
    (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (saved / "data-00000-of-00001.arrow").write_bytes(b"ARROW1 no")
    refused(f"hf:{saved}?label=kind", "cannot be read", data)
    shutil.rmtree(saved)
    saved.mkdir()
    table = hugging_face_table(images, None)
    labels = pa.array([None, *table.column("kind").to_pylist()[1:]])
    pq.write_table(table.set_column(1, "kind", labels), saved / "train.parquet")
    refused(f"hf:{saved}?label=kind", r"train.parquet\[0\] has no label", data)
    pq.write_table(table.slice(0, 0), saved / "train.parquet")
    refused(f"hf:{saved}?label=kind", "has no image that can be read", data)
    pq.write_table(table.set_column(1, "kind", pa.array([[1]] * len(table))), saved / "train.parquet")
    refused(f"hf:{saved}?label=kind", "column kind holds list.*no label", data)
    (saved / "dataset_dict.json").write_text('{"splits": ["../images"]}')
    refused(f"hf:{saved}?label=kind", "names no splits", data)


def test_images_that_are_not_embedded_are_listed_and_never_opened(tmp_path, images):
    table = hugging_face_table(images, None)
    column = table.column("photo").to_pylist()
    column[0] = {"bytes": None, "path": os.fspath(images / "a" / "000.png")}
    column[1] = None
    save_to_disk(table.set_column(0, "photo", pa.array(column)), tmp_path / "saved")
    dataset = registry.load(f"hf:{tmp_path / 'saved'}?label=kind&image=photo")
    details = [problem["detail"] for problem in store.problems(dataset) if problem["kind"] == "unreadable"]
    assert len(details) == 2 and "which is not embedded" in details[0] and "holds no image" in details[1]


def test_a_name_of_the_hub_is_read_from_what_the_package_fetched(tmp_path, images, monkeypatch):
    """The package stands in for the network: it answers with the Arrow files of its cache."""
    save_to_disk(hugging_face_table(images, ["a", "b"]), tmp_path / "cache")
    cached = [{"filename": str(tmp_path / "cache" / "data-00000-of-00001.arrow")}]
    package = types.ModuleType("datasets")
    package.load_dataset = lambda name: (
        {"train": types.SimpleNamespace(cache_files=cached)} if name == "me/pets" else 1 / 0
    )
    monkeypatch.setitem(sys.modules, "datasets", package)
    dataset = registry.load("hf:me/pets?image=photo&label=kind")
    assert dataset.name == "hf:me/pets?image=photo&label=kind" and dataset.sizes.n_train == 10
    with pytest.raises(DataError, match="cannot be had from the hub"):
        registry.load("hf:me/none")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="need the package `datasets`") as caught:
        registry.load("hf:me/others")
    assert "replay-explorer[huggingface]" in caught.value.remedy


def test_the_loader_of_the_guide_is_one_file(tmp_path):
    """The Python of docs/data.md, as it stands there."""
    guide = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    (tmp_path / "blobs.py").write_text(guide.split("```python\n")[2].split("```")[0])
    code = "import blobs; from engine import datasets; print(datasets.load('blobs').sizes.n_train)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "150"
