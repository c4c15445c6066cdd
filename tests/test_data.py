"""Data sets: read once, then memory-mapped, and only where they are what the files say."""

import dataclasses
import gzip
import logging
import math
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import datasets
from engine.core.stream import examples
from engine.datasets import base as datasets_base
from engine.datasets import fashion_mnist, prepared
from engine.errors import ConfigError, DataError
from tests.helpers import ROOT


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("REPLAY_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data" / "prepared" / "tiny"


class Reader:
    """Reads a tiny data set of the content given, and counts how often."""

    def __init__(self, seed: int = 0):
        self.rng, self.times = np.random.default_rng(seed), 0
        self.arrays = {}
        for split, n in (("train", 20), ("test", 6)):
            self.arrays[f"{split}_images"] = self.rng.integers(0, 9, (n, 4, 4, 1)).astype(np.uint8)
            self.arrays[f"{split}_labels"] = self.rng.integers(0, 9, n)

    def __call__(self) -> dict[str, np.ndarray]:
        self.times += 1
        return self.arrays


def same(arrays: dict, expected: dict) -> bool:
    return arrays.keys() == expected.keys() and all(
        np.array_equal(arrays[k], expected[k]) and arrays[k].dtype == expected[k].dtype for k in expected
    )


def mapped(array: np.ndarray) -> bool:
    return isinstance(array.base, np.memmap) and not array.flags.writeable


def test_arrays_are_read_once_and_then_mapped(folder):
    first, second = Reader(), Reader()
    for reader in (first, second):
        arrays = prepared.prepared("tiny", "a digest", reader)
        assert same(arrays, first.arrays) and all(mapped(array) for array in arrays.values())
    assert (first.times, second.times) == (1, 0)
    assert {path.name for path in folder.iterdir()} == {
        "prepared.json",
        *(f"{key}.npy" for key in datasets_base.ARRAYS),
    }


@pytest.mark.parametrize(
    "harm",
    [
        lambda f: (f / "prepared.json").write_text("{"),
        lambda f: (f / "prepared.json").write_text("[]"),
        lambda f: (f / "prepared.json").write_text('{"digest": "a digest", "sha256": {}}'),
        lambda f: (f / "prepared.json").write_text('{"digest": "a digest", "sha256": 3}'),
        lambda f: (f / "prepared.json").unlink(),
        lambda f: (f / "train_images.npy").write_bytes((f / "train_images.npy").read_bytes()[:-1] + b"\xff"),
        lambda f: (f / "test_labels.npy").unlink(),
    ],
)
def test_what_is_damaged_is_read_anew(folder, harm):
    prepared.prepared("tiny", "a digest", Reader())
    harm(folder)
    again = Reader()
    assert same(prepared.prepared("tiny", "a digest", again), again.arrays) and again.times == 1
    assert mapped(prepared.prepared("tiny", "a digest", Reader())["train_images"])


def test_other_sources_are_read_anew_and_what_a_killed_process_left_goes(folder):
    prepared.prepared("tiny", "a digest", Reader(0))
    old, young = (folder / f"{prepared.files.TEMPORARY}{name}" for name in ("old", "young"))
    old.touch(), young.touch()
    os.utime(old, (time.time() - 1e6, time.time() - 1e6))
    other = Reader(1)
    assert same(prepared.prepared("tiny", "another", other), other.arrays) and other.times == 1
    assert not old.exists() and young.exists(), "a young one may belong to a living process"


@pytest.mark.parametrize("why", ["read-only mode", "a file in the way"])
def test_where_nothing_may_be_written_the_arrays_stay_in_memory_and_the_log_says_so(folder, why, monkeypatch, caplog):
    if why == "read-only mode":
        monkeypatch.setenv("REPLAY_READ_ONLY", "1")
    else:
        folder.parents[1].touch()
    reader = Reader()
    with caplog.at_level(logging.WARNING, "engine.datasets"):
        assert same(prepared.prepared("tiny", "a digest", reader), reader.arrays)
    assert "the images of tiny are kept in memory" in caplog.text and not folder.exists()


def test_training_reads_batches_of_a_map_and_cannot_write_to_it(folder):
    maps = prepared.prepared("tiny", "a digest", Reader())
    whole = dataclasses.replace(datasets.load("fashion-mnist-sample"), **maps)
    on_map = examples(whole, "train", torch.device("cpu"), torch.float32)
    assert np.shares_memory(on_map.inputs, maps["train_images"])  # not a copy
    in_memory = dataclasses.replace(on_map, inputs=torch.from_numpy(np.array(maps["train_images"])))
    inputs, labels = on_map.batch(torch.tensor([1, 0]))
    assert torch.equal(inputs, in_memory.batch(torch.tensor([1, 0]))[0]) and inputs.is_contiguous()
    raw = dataclasses.replace(on_map, dtype=torch.uint8, mean=None, std=None)
    raw.batch(torch.tensor([0]))[0].fill_(77)
    assert np.array_equal(maps["train_images"], Reader().arrays["train_images"])


# -- where data sets are


def test_the_data_folder_is_never_one_beside_installed_code(tmp_path, monkeypatch):
    monkeypatch.setenv("REPLAY_DATA_DIR", str(tmp_path / "named"))
    assert prepared.data_folder() == tmp_path / "named"
    monkeypatch.setenv("REPLAY_DATA_DIR", "")
    monkeypatch.chdir(ROOT)
    assert prepared.data_folder() == ROOT / "data"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert prepared.data_folder() == tmp_path / "xdg" / "replay-explorer"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert prepared.data_folder() == tmp_path / "home" / ".local" / "share" / "replay-explorer"
    monkeypatch.delenv("REPLAY_DATA_DIR")
    monkeypatch.setattr(prepared, "CHECKOUT", tmp_path / "lib" / "site-packages")
    (tmp_path / "lib" / "site-packages").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "lib" / "site-packages")
    assert "site-packages" not in str(prepared.data_folder())


# -- Fashion-MNIST from its four files


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def fashion(folder: Path, packed: bool = False, seed: int = 0) -> dict[str, np.ndarray]:
    """Writes the four files of a tiny Fashion-MNIST as torchvision lays them out, and returns what is in them."""
    rng, arrays = np.random.default_rng(seed), []
    for n in (30, 12):
        arrays += [rng.integers(0, 256, (n, 28, 28), dtype=np.uint8), np.arange(n) % 10]
    folder.mkdir(parents=True)
    for name, array in zip(fashion_mnist.IDX, arrays, strict=True):
        content = gzip.compress(idx(array)) if packed else idx(array)
        (folder / f"{name}{'.gz' if packed else ''}").write_bytes(content)
    return dict(zip(datasets_base.ARRAYS, arrays, strict=True))


@pytest.fixture
def data_dir(tmp_path, monkeypatch, request) -> Path:
    monkeypatch.setenv("REPLAY_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    datasets.registry.clear()
    request.addfinalizer(datasets.registry.clear)
    return tmp_path / "data"


@pytest.mark.parametrize("packed", [False, True])
def test_the_four_files_are_read_mapped_and_need_neither_torch_nor_torchvision(data_dir, packed, monkeypatch):
    expected = fashion(data_dir / "FashionMNIST" / "raw", packed)
    dataset = datasets.load("fashion-mnist")
    assert mapped(dataset.train_images) and dataset.sizes[:3] == (30, 12, 10) and dataset.image_shape == (28, 28, 1)
    for key, array in expected.items():
        assert np.array_equal(getattr(dataset, key).squeeze(), array), key
    assert dataset.source.endswith(f"read from {data_dir / 'FashionMNIST' / 'raw'}")
    code = (
        "import sys; from engine import datasets; d = datasets.load('fashion-mnist');"
        "print(d.fingerprint, 'torch' in sys.modules, 'torchvision' in sys.modules)"
    )
    for read_only in ("0", "1"):
        monkeypatch.setenv("REPLAY_READ_ONLY", read_only)
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.split() == [dataset.fingerprint, "False", "False"] and done.stderr == ""


@pytest.mark.slow
@pytest.mark.skipif(not fashion_mnist.DEBIAN.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_the_sample_is_drawn_from_the_whole(tmp_path, monkeypatch, request):
    monkeypatch.setenv("REPLAY_DATA_DIR", str(tmp_path))
    datasets.registry.clear()
    request.addfinalizer(datasets.registry.clear)
    whole, sample = datasets.load("fashion-mnist"), datasets.load("fashion-mnist-sample")
    assert mapped(whole.train_images) and whole.sizes[:3] == (60000, 10000, 10)
    with np.load(fashion_mnist.SAMPLE) as arrays:
        for split in datasets_base.SPLITS:
            index = arrays[f"{split}_source_index"]
            assert np.array_equal(whole.images(split)[index], sample.images(split))
            assert np.array_equal(whole.labels(split)[index], sample.labels(split))


def test_a_folder_that_lacks_the_files_is_not_passed_over_in_silence(data_dir, caplog):
    with pytest.raises(DataError, match=str(data_dir)) as caught:
        datasets.load("fashion-mnist")
    assert "dataset-fashion-mnist" in caught.value.remedy and "REPLAY_DATA_DIR" in caught.value.remedy
    fashion(fashion_mnist.DEBIAN, packed=True)
    with caplog.at_level(logging.WARNING, "engine.datasets"):
        dataset = datasets.load("fashion-mnist")
    assert "REPLAY_DATA_DIR has no Fashion-MNIST" in caplog.text and str(fashion_mnist.DEBIAN) in caplog.text
    assert dataset.source.endswith(f"read from {fashion_mnist.DEBIAN}")
    raw = data_dir / "FashionMNIST" / "raw"
    fashion(raw)
    (raw / fashion_mnist.IDX[3]).unlink()
    datasets.registry.clear()
    with pytest.raises(DataError, match=f"only some of.*{fashion_mnist.IDX[3]} is missing"):
        datasets.load("fashion-mnist")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "harm",
    [
        lambda content: b"",
        lambda content: content[:7],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: b"\0\0\x0d" + content[3:],
        lambda content: b"\0\0\x08\x01" + content[4:],
        lambda content: content[:4] + b"\xff" * 12 + content[16:],
        lambda content: b"<html>404</html>",
    ],
)
def test_damaged_idx_files_are_named(tmp_path, packed, harm):
    images = np.zeros((3, 28, 28), np.uint8)
    path = tmp_path / ("images.gz" if packed else "images")
    path.write_bytes(gzip.compress(harm(idx(images))) if packed else harm(idx(images)))
    with pytest.raises(DataError, match=str(path)) as caught:
        fashion_mnist.read_idx(path, 3)
    assert caught.value.remedy


@pytest.mark.parametrize("harm", [lambda c: c[:-9], lambda c: b"\x1f\x8b" + b"\0" * 40, lambda c: c[:30] + c[31:]])
def test_damaged_packing_is_named(tmp_path, harm):
    path = tmp_path / "labels.gz"
    path.write_bytes(harm(gzip.compress(idx(np.arange(100)))))
    with pytest.raises(DataError, match="cannot be read"):
        fashion_mnist.read_idx(path, 1)


# -- what a data set is


def tiny(**changes) -> datasets.Dataset:
    arrays = Reader().arrays
    return datasets.Dataset(
        **{"name": "tiny", "title": "", "source": "", "classes": tuple("abcdefghi"), **arrays, **changes}
    )


def test_mean_and_deviation_are_those_of_the_pixels_and_a_flat_channel_is_no_division_by_zero():
    images = np.random.default_rng(0).integers(0, 256, (50, 5, 5, 4)).astype(np.uint8)
    images[..., 1], images[..., 2], images[..., 3] = 77, 0, 255
    dataset = tiny(train_images=images, train_labels=np.zeros(50, np.int64))
    scaled = images.reshape(-1, 4) / 255
    assert dataset.mean == pytest.approx(scaled.mean(0)) and dataset.std[0] == pytest.approx(scaled[:, 0].std())
    assert (dataset.std[1:] == 1).all()
    inputs, _ = examples(dataset, "train", torch.device("cpu"), torch.float64).batch(np.arange(50))
    assert (
        torch.isfinite(inputs).all()
        and inputs[:, 1:].abs().max() < 1e-12
        and math.isclose(inputs[:, 0].std(), 1, rel_tol=0.01)
    )


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"train_images": np.zeros((20, 4, 4, 1))}, "train images are float64"),
        ({"train_images": np.zeros((20, 4, 4), np.uint8)}, "not uint8 \\[N, H, W, C\\]"),
        ({"test_images": np.zeros((6, 5, 4, 1), np.uint8)}, "another size"),
        ({"test_images": np.zeros((0, 4, 4, 1), np.uint8)}, "test images"),
        ({"train_labels": np.zeros(20, np.int32)}, "labels are int32"),
        ({"train_labels": np.zeros(19, np.int64)}, "one an image"),
        ({"test_labels": np.full(6, 9)}, "from 0 to 8"),
        ({"train_labels": np.full(20, -1)}, "from 0 to 8"),
    ],
)
def test_a_registered_data_set_is_checked(monkeypatch, changes, why):
    monkeypatch.setattr(datasets.DATASETS, "_things", {})
    datasets.register("tiny", tiny)
    assert datasets.load("tiny").sizes[:3] == (20, 6, 9) and datasets.load("tiny") is datasets.load("tiny")
    datasets.registry.clear()
    datasets.register("wrong", lambda: tiny(name="wrong", **changes))
    with pytest.raises(DataError, match=why):
        datasets.load("wrong")
    datasets.register("other", tiny)
    with pytest.raises(DataError, match="gave the data set «tiny»"):
        datasets.load("other")
    with pytest.raises(ConfigError, match="already"):
        datasets.register("fashion-mnist", tiny)
    with pytest.raises(ConfigError, match="no data set «nowhere»"):
        datasets.load("nowhere")
    datasets.registry.clear()


def test_the_embedded_samples_are_what_they_were():
    assert datasets.load("fashion-mnist-sample").fingerprint[:16] == "613af093c8d612b9"
    assert datasets.load("fashion-mnist-sample-noisy").fingerprint[:16] == "498ddf365ed67f90"
