"""Fashion-MNIST: the embedded sample, the sample with wrong labels, and the whole of it."""

import dataclasses
import functools
import gzip
import shutil
import tempfile
from pathlib import Path

import numpy as np

from engine import files
from engine.datasets.base import ARRAYS, SPLITS, Dataset
from engine.datasets.prepared import data_folder, prepared
from engine.errors import DataError

SAMPLE = Path(__file__).parents[1] / "assets" / "fashion-mnist-sample.npz"

DEBIAN = Path("/usr/share/datasets/fashion-mnist")

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

FLIPPED = 0.05  # of the noisy sample's training labels


@functools.cache
def _sample() -> Dataset:
    try:
        with np.load(SAMPLE, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError) as error:
        raise DataError(
            f"The embedded data set {SAMPLE} cannot be read ({error}).",
            "Restore it with `git checkout` or make it again with `make data`.",
        ) from error
    return Dataset(
        "fashion-mnist-sample",
        "Fashion-MNIST sample (6,000 training images)",
        "6,000 + 1,000 images of Fashion-MNIST, Zalando SE, MIT licence, arXiv 1708.07747",
        CLASSES,
        arrays["train_images"][..., None],
        arrays["train_labels"].astype(np.int64),
        arrays["test_images"][..., None],
        arrays["test_labels"].astype(np.int64),
    )


@functools.cache
def _noisy_sample() -> Dataset:
    """The sample with 5 % of its training labels flipped, each to another class, all as likely: for
    learning how wrong labels look, and for measuring how well they are found."""
    clean = _sample()
    rng, n, classes = np.random.default_rng(0), len(clean.train_labels), len(clean.classes)
    flipped = rng.choice(n, round(FLIPPED * n), replace=False)
    labels = clean.train_labels.copy()
    labels[flipped] = (labels[flipped] + rng.integers(1, classes, len(flipped))) % classes
    return dataclasses.replace(
        clean,
        name="fashion-mnist-sample-noisy",
        title=f"Fashion-MNIST sample, {FLIPPED:.0%} of the training labels wrong",
        train_labels=labels,
        true_train_labels=clean.train_labels,
    )


@functools.cache
def _fashion_mnist() -> Dataset:
    sources = _fashion_mnist_files(data_folder())
    digest = files.json_digest([files.sha256_of(path.resolve()) for path in sources])

    def read() -> dict[str, np.ndarray]:
        splits = read_fashion_mnist(data_folder())
        return dict(zip(ARRAYS, (*splits["train"], *splits["test"])))

    return Dataset(
        "fashion-mnist",
        "Fashion-MNIST (60,000 training images)",
        "Fashion-MNIST, Zalando SE, MIT licence, arXiv 1708.07747",
        CLASSES,
        **prepared("fashion-mnist", digest, read),
    )


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
            "them), or choose fashion-mnist-sample, which needs nothing.",
        )
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
