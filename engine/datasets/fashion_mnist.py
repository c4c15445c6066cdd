"""Fashion-MNIST: the embedded sample, the sample with wrong labels, and the whole of it."""

import dataclasses
import gzip
import logging
import math
import os
import zlib
from pathlib import Path

import numpy as np

from engine import files
from engine.datasets.base import ARRAYS, SPLITS, Dataset
from engine.datasets.prepared import data_folder, prepared
from engine.datasets.registry import load
from engine.errors import DataError

logger = logging.getLogger(__name__)

SAMPLE = Path(__file__).parents[1] / "assets" / "fashion-mnist-sample.npz"

DEBIAN = Path("/usr/share/datasets/fashion-mnist")

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

UNSIGNED_BYTES = 0x08  # the third byte of an IDX file; the fourth is the number of dimensions

LARGEST = 1 << 30  # bytes of an IDX file, unpacked; Fashion-MNIST's largest has 47 million

FLIPPED = 0.05  # of the noisy sample's training labels


def sample() -> Dataset:
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


def noisy_sample(share: float = FLIPPED, name: str = "fashion-mnist-sample-noisy") -> Dataset:
    """The sample with a share of its training labels flipped, 5 % of them, each to another class, all as likely: for
    learning how wrong labels look, and for measuring how well they are found."""
    clean = load("fashion-mnist-sample")
    rng, n, classes = np.random.default_rng(0), len(clean.train_labels), len(clean.classes)
    flipped = rng.choice(n, round(share * n), replace=False)
    labels = clean.train_labels.copy()
    labels[flipped] = (labels[flipped] + rng.integers(1, classes, len(flipped))) % classes
    return dataclasses.replace(
        clean,
        name=name,
        title=f"Fashion-MNIST sample, {share:.0%} of the training labels wrong",
        train_labels=labels,
        true_train_labels=clean.train_labels,
    )


def whole() -> Dataset:
    sources = sources_in(data_folder())
    digest = files.json_digest([files.sha256_of(path) for path in sources])

    def read() -> dict[str, np.ndarray]:
        splits = read_fashion_mnist(sources)
        return dict(zip(ARRAYS, (*splits["train"], *splits["test"]), strict=True))

    arrays = prepared("fashion-mnist", digest, read)
    return Dataset(
        "fashion-mnist",
        "Fashion-MNIST (60,000 training images)",
        f"Fashion-MNIST, Zalando SE, MIT licence, arXiv 1708.07747; read from {sources[0].parent}",
        CLASSES,
        arrays["train_images"],
        arrays["train_labels"],
        arrays["test_images"],
        arrays["test_labels"],
    )


def sources_in(folder: Path) -> list[Path]:
    """The four IDX files, in the order of `IDX`: those below a data folder, plain or packed, as torchvision lays them
    out; else those of Debian's package, which a warning names where REPLAY_DATA_DIR was set to another place.

    `DataError` where there are none, or where some of the four are missing.
    """
    raw = folder / "FashionMNIST" / "raw"
    here, missing = _four(raw)
    if here and not missing:
        return here
    if here:
        raise DataError(
            f"{raw} has only some of Fashion-MNIST's four files; {', '.join(missing)} is missing.",
            "Put the missing ones there, plain or as .gz, or remove the others to use Debian's package.",
        )
    packaged, missing = _four(DEBIAN)
    if not packaged or missing:
        raise DataError(
            f"The full Fashion-MNIST is not in {raw}.",
            "Install it with `apt-get install dataset-fashion-mnist`, or put the four IDX files there, plain or as "
            ".gz (https://github.com/zalandoresearch/fashion-mnist has them), or set REPLAY_DATA_DIR to the folder "
            "above FashionMNIST, or choose fashion-mnist-sample, which needs nothing.",
        )
    if os.environ.get("REPLAY_DATA_DIR"):
        logger.warning("REPLAY_DATA_DIR has no Fashion-MNIST in %s; that of %s is used.", raw, DEBIAN)
    return packaged


def _four(folder: Path) -> tuple[list[Path], list[str]]:
    """Of the IDX files those that a folder has, plain before packed, and the names of those that it lacks."""
    paths = [next((p for p in (folder / n, folder / f"{n}.gz") if p.is_file()), None) for n in IDX]
    return [p for p in paths if p is not None], [n for n, p in zip(IDX, paths, strict=True) if p is None]


def read_fashion_mnist(sources: list[Path]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images uint8 [N, 28, 28, 1] and labels int64 [N] by split, from the four files of `sources_in`."""
    arrays = [read_idx(path, dimensions) for path, dimensions in zip(sources, (3, 1, 3, 1), strict=True)]
    splits = {}
    for split, images, labels in zip(SPLITS, arrays[::2], arrays[1::2], strict=True):
        splits[split] = (images[..., None], labels.astype(np.int64))
    return splits


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The unsigned bytes of an IDX file, plain or packed: two zeros, the type, the number of dimensions, each
    dimension as a big-endian 32-bit number, and the bytes.

    `DataError` for a file that cannot be read, or is not that.
    """
    remedy = "Fetch the file again."
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:  # gzip's own BadGzipFile is an OSError
        raise DataError(f"{path} cannot be read ({error}).", remedy) from error
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes([0, 0, UNSIGNED_BYTES, dimensions]):
        raise DataError(f"{path} is no IDX file of {dimensions} dimensions of unsigned bytes.", remedy)
    shape = tuple(np.frombuffer(content, ">u4", dimensions, offset=4).tolist())
    if len(content) != header + math.prod(shape):
        raise DataError(
            f"{path} has {len(content) - header:,} bytes, and its header speaks of {math.prod(shape):,}.", remedy
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
