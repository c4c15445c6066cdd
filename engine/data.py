"""Labelled images as arrays: the embedded sample, and the full Fashion-MNIST.

A data set is uint8 pixels and integer labels in RAM; batches are rows of it (there is no
loader and there are no workers). Its fingerprint, SHA-256 over everything that training sees,
is kept with each run and compared before a replay.
"""

import dataclasses
import functools
import gzip
import hashlib
import io
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.errors import ConfigError, DataError

SAMPLE = Path(__file__).parent / "assets" / "fashion-mnist-sample.npz"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
           "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
SPLITS = ("train", "test")
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
    splits = read_fashion_mnist(data_folder())
    return Dataset("fashion-mnist", "Fashion-MNIST (60,000 training images)",
                   "Fashion-MNIST, Zalando SE, MIT licence, arXiv 1708.07747", CLASSES,
                   *splits["train"], *splits["test"])


def read_fashion_mnist(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images uint8 [N, 28, 28, 1] and labels int64 [N] by split, through torchvision's reader.

    Looks in `folder`/FashionMNIST/raw, where torchvision keeps the four IDX files, and fills
    it from Debian's package `dataset-fashion-mnist` where that is installed. Asks no network.
    """
    datasets = import_torchvision().datasets
    raw = folder / "FashionMNIST" / "raw"
    for packed in sorted(DEBIAN.glob("*-ubyte.gz")):
        plain = raw / packed.stem
        if not plain.exists():
            raw.mkdir(parents=True, exist_ok=True)
            part = plain.with_suffix(".part")
            with gzip.open(packed) as source, part.open("wb") as sink:
                shutil.copyfileobj(source, sink)
            part.rename(plain)
    splits = {}
    for split in SPLITS:
        try:
            found = datasets.FashionMNIST(str(folder), train=split == "train", download=False)
        except RuntimeError as error:
            raise DataError(
                f"The full Fashion-MNIST is not in {raw}.",
                "Install it with `apt-get install dataset-fashion-mnist`, or put the four IDX "
                "files there (torchvision.datasets.FashionMNIST(..., download=True) fetches "
                "them), or choose fashion-mnist-sample, which needs nothing.") from error
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
