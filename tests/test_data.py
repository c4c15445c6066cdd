"""Large data sets: read once, then memory-mapped, and only where they are what the files say."""

import dataclasses
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.core.stream import examples
from engine.datasets import base as datasets_base
from engine.datasets import fashion_mnist, prepared
from engine.datasets import registry as dataset_registry
from engine.errors import DataError

ROOT = Path(__file__).parents[1]


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


def same(found: dict, expected: dict) -> bool:
    return found.keys() == expected.keys() and all(
        np.array_equal(found[k], expected[k]) and found[k].dtype == expected[k].dtype for k in expected
    )


def mapped(array: np.ndarray) -> bool:
    return isinstance(array.base, np.memmap) and not array.flags.writeable


def test_arrays_are_read_once_and_then_mapped(folder):
    first, second = Reader(), Reader()
    for reader in (first, second):
        found = prepared.prepared("tiny", "a digest", reader)
        assert same(found, first.arrays) and all(mapped(array) for array in found.values())
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
    assert prepared.prepared("tiny", "a digest", Reader()) and mapped(
        prepared.prepared("tiny", "a digest", Reader())["train_images"]
    )


def test_other_sources_are_read_anew(folder):
    prepared.prepared("tiny", "a digest", Reader(0))
    other = Reader(1)
    assert same(prepared.prepared("tiny", "another", other), other.arrays) and other.times == 1


@pytest.mark.parametrize("why", ["read-only mode", "a file in the way"])
def test_where_nothing_may_be_written_the_arrays_stay_in_memory_and_the_log_says_so(folder, why, monkeypatch, caplog):
    if why == "read-only mode":
        monkeypatch.setenv("REPLAY_READ_ONLY", "1")
    else:
        folder.parents[1].touch()
    reader = Reader()
    with caplog.at_level(logging.WARNING, "engine.data"):
        assert same(prepared.prepared("tiny", "a digest", reader), reader.arrays)
    assert "the images of tiny are kept in memory" in caplog.text and not folder.exists()


def test_training_reads_batches_of_a_map_and_cannot_write_to_it(folder):
    maps = prepared.prepared("tiny", "a digest", Reader())
    whole = dataclasses.replace(dataset_registry.load("fashion-mnist-sample"), **maps)
    on_map = examples(whole, "train", torch.device("cpu"), torch.float32)
    assert np.shares_memory(on_map.inputs, maps["train_images"])  # not a copy
    in_memory = dataclasses.replace(on_map, inputs=torch.from_numpy(np.array(maps["train_images"])))
    inputs, labels = on_map.batch(torch.tensor([1, 0]))
    assert torch.equal(inputs, in_memory.batch(torch.tensor([1, 0]))[0]) and inputs.is_contiguous()
    raw = dataclasses.replace(on_map, dtype=torch.uint8, mean=None, std=None)
    raw.batch(torch.tensor([0]))[0].fill_(77)
    assert np.array_equal(maps["train_images"], Reader().arrays["train_images"])


def test_the_full_fashion_mnist_is_mapped_and_then_needs_no_torchvision(tmp_path, monkeypatch, request):
    monkeypatch.setenv("REPLAY_DATA_DIR", str(tmp_path))
    fashion_mnist._fashion_mnist.cache_clear()
    request.addfinalizer(fashion_mnist._fashion_mnist.cache_clear)
    if not fashion_mnist.DEBIAN.is_dir():
        with pytest.raises(DataError, match="dataset-fashion-mnist"):
            dataset_registry.load("fashion-mnist")
        return
    found = dataset_registry.load("fashion-mnist")
    assert (
        mapped(found.train_images)
        and found.train_images.shape == (60000, 28, 28, 1)
        and found.test_labels.shape == (10000,)
    )
    with np.load(fashion_mnist.SAMPLE) as arrays:
        for split in datasets_base.SPLITS:
            index, sample = arrays[f"{split}_source_index"], dataset_registry.load("fashion-mnist-sample")
            assert np.array_equal(found.images(split)[index], sample.images(split))
            assert np.array_equal(found.labels(split)[index], sample.labels(split))
    files_there = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert len(files_there) == 5, "nothing but the maps and what they are of"
    code = "import sys; from engine import data; print(data.load('fashion-mnist').fingerprint, 'torch' in sys.modules)"
    for read_only in ("0", "1"):
        monkeypatch.setenv("REPLAY_READ_ONLY", read_only)
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.split() == [found.fingerprint, "False"] and done.stderr == ""
    fashion_mnist._fashion_mnist.cache_clear()
