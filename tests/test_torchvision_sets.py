"""torchvision's CIFAR, SVHN and EMNIST, read from files in their authors' formats that the tests make.

MNIST, KMNIST, Fashion-MNIST, EMNIST's letters and STL-10 are in tests/test_image_tables.py. The pickles here are
CIFAR's own format; torchvision compares their checksums before it reads them.
"""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.datasets import registry
from engine.datasets.torchvision_sets import import_torchvision
from engine.errors import DataError
from tests.test_image_tables import left_behind, mnist_files


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch) -> Path:
    """The data folder."""
    monkeypatch.setenv("REPLAY_DATA_DIR", str(tmp_path / "data"))
    registry.clear()
    return tmp_path / "data"


def whole(monkeypatch, name: str) -> None:
    """What a test makes is not the real file, whose checksums torchvision compares."""
    monkeypatch.setattr(getattr(import_torchvision().datasets, name), "_check_integrity", lambda self: True)


CIFAR = {
    "CIFAR10": ("cifar-10-batches-py", [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], "labels", 10),
    "CIFAR100": ("cifar-100-python", ["train", "test"], "fine_labels", 100),
}


def cifar_files(root: Path, name: str) -> dict[str, np.ndarray]:
    """The files of CIFAR as their authors lay them out: pickled dictionaries, an image a row, channels first."""
    folder, files, labels, classes = CIFAR[name]
    (root / folder).mkdir(parents=True)
    rng, n = np.random.default_rng(0), 2 * classes
    rows = {file: rng.integers(0, 256, (n, 3072), np.uint8) for file in files}
    for file, pixels in rows.items():
        batch = {"data": pixels, labels: [i % classes for i in range(n)], "filenames": [f"{i}.png" for i in range(n)]}
        (root / folder / file).write_bytes(pickle.dumps(batch, protocol=2))
    named = {"CIFAR10": ("batches.meta", "label_names"), "CIFAR100": ("meta", "fine_label_names")}[name]
    meta = {named[1]: [f"kind {i}" for i in range(classes)]}
    (root / folder / named[0]).write_bytes(pickle.dumps(meta, protocol=2))
    return rows


@pytest.mark.parametrize("name", CIFAR)
def test_cifar_is_read_from_its_files(name, root, monkeypatch):
    rows = cifar_files(root, name)
    *train, test = rows.values()
    whole(monkeypatch, name)
    monkeypatch.setattr(import_torchvision().datasets.cifar, "check_integrity", lambda path, md5=None: True)
    dataset = registry.load(f"torchvision:{name}")
    upright = np.concatenate(train).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    assert np.array_equal(dataset.train_images, upright)
    assert np.array_equal(dataset.test_images, test.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    assert dataset.classes == tuple(f"kind {i}" for i in range(CIFAR[name][3]))
    assert dataset.test_labels.tolist() == 2 * list(range(CIFAR[name][3]))


class Runs:
    def __reduce__(self):
        return print, ("code of a data set's file was run",)


@pytest.mark.parametrize("name", CIFAR)
@pytest.mark.parametrize("which", ["batch", "names"])
def test_files_of_cifar_that_are_not_the_real_ones_are_never_unpickled(name, which, root, capsys):
    """torchvision compares their checksums first: a pickle runs code."""
    cifar_files(root, name)
    folder = root / CIFAR[name][0]
    path = folder / (CIFAR[name][1][0] if which == "batch" else {"CIFAR10": "batches.meta", "CIFAR100": "meta"}[name])
    path.write_bytes(pickle.dumps(Runs()))
    with pytest.raises(DataError, match=f"torchvision cannot read {name}"):
        registry.load(f"torchvision:{name}")
    assert "was run" not in capsys.readouterr().out
    assert left_behind(root / "prepared") == []


def test_svhn_is_read_from_its_files(root, monkeypatch):
    """MATLAB's: the examples come last, and the digit 0 has the label 10."""
    io = pytest.importorskip("scipy.io", reason="SciPy reads MATLAB's files")
    rng = np.random.default_rng(0)
    images = {split: rng.integers(0, 256, (32, 32, 3, n), np.uint8) for split, n in (("train", 20), ("test", 10))}
    root.mkdir()
    for split, pixels in images.items():
        labels = (np.arange(pixels.shape[3]) % 10 + 1).astype(np.uint8)[:, None]
        io.savemat(root / f"{split}_32x32.mat", {"X": pixels, "y": labels}, do_compression=True)
    with pytest.raises(DataError, match="torchvision cannot read SVHN"):  # its checksums are those of the real one
        registry.load("torchvision:SVHN")
    whole(monkeypatch, "SVHN")
    dataset = registry.load("torchvision:SVHN")
    assert np.array_equal(dataset.train_images, images["train"].transpose(3, 0, 1, 2))
    assert dataset.test_labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0] and len(dataset.classes) == 10


def test_svhn_without_scipy_says_so(root, monkeypatch):
    root.mkdir()
    for split in ("train", "test"):
        (root / f"{split}_32x32.mat").write_bytes(b"MATLAB 5.0")
    whole(monkeypatch, "SVHN")
    for name in [name for name in sys.modules if name.partition(".")[0] == "scipy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(DataError, match="torchvision reads SVHN by the package scipy") as caught:
        registry.load("torchvision:SVHN")
    assert caught.value.remedy == "Install it: pip install scipy."


@pytest.mark.parametrize("split", ["balanced", "byclass", "bymerge", "digits", "mnist"])
def test_every_split_of_emnist_is_read(root, split):
    values = mnist_files(root / "EMNIST" / "raw", f"emnist-{split}-", "test")
    dataset = registry.load(f"torchvision:EMNIST?split={split}")
    assert np.array_equal(dataset.test_images[..., 0], values["test"].transpose(0, 2, 1))
    expected = {"balanced": 47, "byclass": 62, "bymerge": 47, "digits": 10, "mnist": 10}[split]
    assert len(dataset.classes) <= expected and dataset.train_labels[:3].tolist() == [0, 1, 2]
