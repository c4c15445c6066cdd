"""Labelled images as arrays: the embedded sample, and the full Fashion-MNIST.

A data set is uint8 pixels and integer labels; batches are rows of it (there is no loader and there
are no workers). A large one is read once, and then memory-mapped (`prepared`). Its fingerprint,
SHA-256 over everything that training sees, is kept with each run and compared before a replay.
"""

import dataclasses
import functools
import gzip
import hashlib
import io
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import numpy as np

from engine import files
from engine.errors import ConfigError, DataError, IntegrityError, ReadOnlyError, StorageError

logger = logging.getLogger(__name__)
SAMPLE = Path(__file__).parent / "assets" / "fashion-mnist-sample.npz"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
           "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
SPLITS = ("train", "test")
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
FLIPPED = 0.05      # of the noisy sample's training labels


@dataclass(frozen=True)
class Dataset:
    """Images uint8 [N, H, W, C] and labels int64 [N] of both splits; classes in label order.

    `mean` and `std` are per channel over the training images scaled to 0..1, float64 [C].
    """

    name: str
    title: str
    source: str
    classes: tuple[str, ...]
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    true_train_labels: np.ndarray | None = None      # where it is known that some labels are wrong

    def images(self, split: str) -> np.ndarray:
        return self.train_images if split == "train" else self.test_images

    def labels(self, split: str) -> np.ndarray:
        return self.train_labels if split == "train" else self.test_labels

    @functools.cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.classes).encode())
        for split in SPLITS:
            for array in (self.images(split), self.labels(split)):
                digest.update(f"{split} {array.dtype} {array.shape}".encode())
                digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()

    @functools.cached_property
    def mean(self) -> np.ndarray:
        return self._histogram_moments[0]

    @functools.cached_property
    def std(self) -> np.ndarray:
        return self._histogram_moments[1]

    @functools.cached_property
    def _histogram_moments(self) -> tuple[np.ndarray, np.ndarray]:
        # From 256 counts a channel: exact, and no float copy of the images.
        level = np.arange(256) / 255
        channels = range(self.train_images.shape[-1])
        counts = np.stack([np.bincount(self.train_images[..., c].ravel(), minlength=256)
                           for c in channels])
        mean = counts @ level / counts.sum(1)
        return mean, np.sqrt(counts @ level**2 / counts.sum(1) - mean**2)


def load(name: str) -> Dataset:
    """The data set by its name in `engine.config.DATASETS`, loaded once a process."""
    loaders = {"fashion-mnist-sample": _sample, "fashion-mnist-sample-noisy": _noisy_sample,
               "fashion-mnist": _fashion_mnist}
    if name not in loaders:
        raise ConfigError(f"There is no data set «{name}».", f"Choose one of {', '.join(loaders)}.",
                          {"dataset": f"is not one of {', '.join(loaders)}"})
    return loaders[name]()


@functools.cache
def _sample() -> Dataset:
    try:
        with np.load(SAMPLE, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError) as error:
        raise DataError(f"The embedded data set {SAMPLE} cannot be read ({error}).",
                        "Restore it with `git checkout` or make it again with `make data`.") from error
    return Dataset(
        "fashion-mnist-sample", "Fashion-MNIST sample (6,000 training images)",
        "6,000 + 1,000 images of Fashion-MNIST, Zalando SE, MIT licence, arXiv 1708.07747", CLASSES,
        arrays["train_images"][..., None], arrays["train_labels"].astype(np.int64),
        arrays["test_images"][..., None], arrays["test_labels"].astype(np.int64))


@functools.cache
def _noisy_sample() -> Dataset:
    """The sample with 5 % of its training labels flipped, each to another class, all as likely: for
    learning how wrong labels look, and for measuring how well they are found."""
    clean = _sample()
    rng, n, classes = np.random.default_rng(0), len(clean.train_labels), len(clean.classes)
    flipped = rng.choice(n, round(FLIPPED * n), replace=False)
    labels = clean.train_labels.copy()
    labels[flipped] = (labels[flipped] + rng.integers(1, classes, len(flipped))) % classes
    return dataclasses.replace(clean, name="fashion-mnist-sample-noisy",
                               title=f"Fashion-MNIST sample, {FLIPPED:.0%} of the training labels wrong",
                               train_labels=labels, true_train_labels=clean.train_labels)


def data_folder() -> Path:
    return Path(os.environ.get("REPLAY_DATA_DIR", Path(__file__).parents[1] / "data"))


@functools.cache
def _fashion_mnist() -> Dataset:
    sources = _fashion_mnist_files(data_folder())
    digest = files.json_digest([files.sha256_of(path) for path in sources])

    def read() -> dict[str, np.ndarray]:
        splits = read_fashion_mnist(data_folder())
        return dict(zip(ARRAYS, (*splits["train"], *splits["test"])))

    return Dataset("fashion-mnist", "Fashion-MNIST (60,000 training images)",
                   "Fashion-MNIST, Zalando SE, MIT licence, arXiv 1708.07747", CLASSES,
                   **prepared("fashion-mnist", digest, read))


def prepared(name: str, digest: str, read: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The four `ARRAYS` of a data set, as read-only memory maps of .npy files in the data folder.

    Made by `read` once for each `digest`, that of the files it reads; afterwards used only where prepared.json,
    written last, has that digest and the maps have their checksums. Where the data folder cannot be written,
    the arrays stay in RAM, and the log says so.
    """
    folder = data_folder() / "prepared" / name
    arrays = _mapped(folder, digest)
    if arrays is not None:
        return arrays
    arrays = read()
    try:
        with files.disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        checksums = {key: files.write_npy(folder / f"{key}.npy", array) for key, array in arrays.items()}
        files.write_json(folder / "prepared.json", {"digest": digest, "sha256": checksums})
    except (ReadOnlyError, StorageError) as error:
        logger.warning("%s So the images of %s are kept in memory.", error.what, name)
        return arrays
    return _mapped(folder, digest) or arrays


def _mapped(folder: Path, digest: str) -> dict[str, np.ndarray] | None:
    """None where they are not prepared yet, are of other sources, or are damaged: they are made anew."""
    try:
        kept = files.read_json(folder / "prepared.json", "")
        if kept["digest"] != digest:
            return None
        return {key: np.asarray(files.read_npy(folder / f"{key}.npy", str(kept["sha256"][key]), "")) for key in ARRAYS}
    except (IntegrityError, KeyError, TypeError):
        return None


def _fashion_mnist_files(folder: Path) -> list[Path]:
    """The four IDX files as torchvision lays them out in `folder`, or else those of Debian's package, packed."""
    raw = folder / "FashionMNIST" / "raw"
    plain, packed = [raw / name for name in IDX], [DEBIAN / f"{name}.gz" for name in IDX]
    found = next((paths for paths in (plain, packed) if all(path.is_file() for path in paths)), None)
    if found is None:
        raise DataError(
            f"The full Fashion-MNIST is not in {raw}.",
            "Install it with `apt-get install dataset-fashion-mnist`, or put the four IDX "
            "files there (torchvision.datasets.FashionMNIST(..., download=True) fetches "
            "them), or choose fashion-mnist-sample, which needs nothing.")
    return found


def read_fashion_mnist(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images uint8 [N, 28, 28, 1] and labels int64 [N] by split, through torchvision's reader, which wants
    unpacked files. Asks no network, and writes nothing to `folder`."""
    datasets = import_torchvision().datasets
    sources = _fashion_mnist_files(folder)
    with tempfile.TemporaryDirectory() as unpacked:
        if sources[0].suffix == ".gz":
            folder = Path(unpacked)
            raw = folder / "FashionMNIST" / "raw"
            raw.mkdir(parents=True)
            for packed in sources:
                with gzip.open(packed) as source, (raw / packed.stem).open("wb") as sink:
                    shutil.copyfileobj(source, sink)
        splits = {}
        for split in SPLITS:
            found = datasets.FashionMNIST(str(folder), train=split == "train", download=False)
            splits[split] = (found.data.numpy()[..., None], found.targets.numpy().astype(np.int64))
    return splits


@functools.cache
def import_torchvision():
    """torchvision, also beside a build of torch that its binary operators were not made for.

    The package index serves a CUDA build only; beside a CPU build of torch its import stops
    at two operators whose schemas its binary would have defined. Neither is used here.
    """
    import torch
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import_torchvision.keep_alive = library
        import torchvision
    return torchvision


def png(image: np.ndarray) -> bytes:
    """PNG of a uint8 [H, W, C] image."""
    from PIL import Image
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()
