"""Data sets that torchvision reads and fetches: `torchvision:NAME?root=DIR`, or EMNIST with `split=letters`.

Files that are in `root` (by default the data folder) are used, as are those of Debian's package
dataset-fashion-mnist; else torchvision downloads them there. torch is loaded only where files are read for the first
time: what is prepared is mapped without it.
"""

import contextlib
import functools
import importlib
import importlib.util
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine import files
from engine.datasets import fashion_mnist, store
from engine.datasets.base import PIECE, SPLITS, Dataset
from engine.datasets.builder import Builder
from engine.datasets.decode import ImageForm
from engine.datasets.names import OWN, DatasetName, absolute, canonical, image_options, name_error
from engine.datasets.prepared import data_folder
from engine.datasets.source import Progress, Stamp, digests_of, sha256_of, stamp_of, timed
from engine.errors import DataError

LOOK = 0.5  # seconds between looks at how far a download is

_IDX = tuple(f"{{raw}}/{name}" for name in fashion_mnist.IDX)


@dataclass(frozen=True)
class TorchvisionKind:
    """`files` below the root, without which torchvision fetches; `size` of the download in bytes, about."""

    files: tuple[str, ...]
    size: int
    by_split: bool = False  # its argument is split=, not train=
    needs: str = ""  # a package beside torchvision


def _idx(raw: str) -> tuple[str, ...]:
    return tuple(name.format(raw=raw) for name in _IDX)


KINDS = {
    "MNIST": TorchvisionKind(_idx("MNIST/raw"), 11_600_000),
    "KMNIST": TorchvisionKind(_idx("KMNIST/raw"), 21_000_000),
    "FashionMNIST": TorchvisionKind(_idx("FashionMNIST/raw"), 31_000_000),
    "EMNIST": TorchvisionKind(
        tuple(
            f"EMNIST/raw/emnist-{{split}}-{part}"
            for part in (
                "train-images-idx3-ubyte",
                "train-labels-idx1-ubyte",
                "test-images-idx3-ubyte",
                "test-labels-idx1-ubyte",
            )
        ),
        562_000_000,
    ),
    "CIFAR10": TorchvisionKind(
        tuple(
            f"cifar-10-batches-py/{n}"
            for n in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
        ),
        170_500_000,
    ),
    "CIFAR100": TorchvisionKind(tuple(f"cifar-100-python/{n}" for n in ("train", "test", "meta")), 169_000_000),
    "SVHN": TorchvisionKind(("train_32x32.mat", "test_32x32.mat"), 246_000_000, by_split=True, needs="scipy"),
    "STL10": TorchvisionKind(
        tuple(f"stl10_binary/{n}.bin" for n in ("train_X", "train_y", "test_X", "test_y", "unlabeled_X"))
        + ("stl10_binary/class_names.txt",),
        2_640_000_000,
        by_split=True,
    ),
}

EMNIST_SPLITS = ("balanced", "byclass", "bymerge", "digits", "letters", "mnist")


class TorchvisionSet:
    """The `Source` of one of torchvision's data sets. `fetch` comes first."""

    def __init__(self, name: DatasetName):
        self.options = image_options(name, OWN[name.kind])
        unused = [key for key, _ in name.options if key not in ("root", "split")]
        if unused:
            raise name_error(str(name), f"has no option {unused[0]}: the images are taken as they are")
        if name.place not in KINDS:
            raise name_error(str(name), f"is none of torchvision:{', torchvision:'.join(KINDS)}")
        options = dict(name.options)
        self.which, self.kind = name.place, KINDS[name.place]
        self.split = options.get("split", "balanced" if self.which == "EMNIST" else "")
        if (self.which == "EMNIST") != (self.split in EMNIST_SPLITS):
            raise name_error(str(name), f"has the option split for EMNIST alone, one of {', '.join(EMNIST_SPLITS)}")
        self.root = absolute(options["root"]) if options.get("root") else data_folder().absolute()
        self.name = canonical(name)
        self.title = f"{self.which} {self.split}".strip()
        self.place = self.root
        self.description = f"{self.title} of torchvision, in {self.root}"
        self.stamps: Sequence[Stamp] = ()
        self.listing = self.quick = ""

    def needed(self) -> list[Path]:
        return [self.root / path.format(split=self.split) for path in self.kind.files]

    def fetch(self, on_progress: Progress) -> None:
        """Downloads where files are missing, and takes their stamps."""
        if not self._is_there():
            self._download(on_progress)
        paths = fashion_mnist.sources_in(self.root) if self.which == "FashionMNIST" else self.needed()
        self.stamps = [stamp_of(path, os.path.relpath(path, self.root)) for path in paths]
        self.listing, self.quick = digests_of(self.stamps)

    def _is_there(self) -> bool:
        if self.which == "FashionMNIST":
            with contextlib.suppress(DataError):
                return bool(fashion_mnist.sources_in(self.root))
        return all(path.is_file() for path in self.needed())

    def write(self, builder: Builder, on_progress: Progress) -> None:
        splits = self._read()
        builder.classes, arrays = splits
        train, _ = arrays["train"]
        builder.form = ImageForm(*train.shape[1:])
        total = sum(len(images) for images, _ in arrays.values())
        report, done = timed(on_progress, total), 0
        for split in SPLITS:
            images, labels = arrays[split]
            rows = max(1, PIECE // images[:1].nbytes)
            for start in range(0, len(images), rows):
                piece = images[start : start + rows]
                names = [f"{split}[{i}]" for i in range(start, start + len(piece))]
                builder.append(split, piece, labels[start : start + rows], names, [""] * len(piece))
                done += len(piece)
                report(done)
        for stamp in self.stamps:
            builder.sha256[stamp.path] = sha256_of(self.root, stamp)

    def _read(self) -> tuple[list[str], dict[str, tuple[np.ndarray, np.ndarray]]]:
        """Classes, and images uint8 [N, H, W, C] and labels by split."""
        if self.which == "FashionMNIST":  # plain or packed, of torchvision or of Debian
            sources = [Path(os.path.normpath(self.root / stamp.path)) for stamp in self.stamps]
            return list(fashion_mnist.CLASSES), fashion_mnist.read_fashion_mnist(sources)
        try:
            sets = {split: self._dataset(split, download=False) for split in SPLITS}
        except (RuntimeError, OSError, ValueError, EOFError, KeyError) as error:
            raise DataError(
                f"torchvision cannot read {self.title} in {self.root} ({error}).",
                "Delete these files and load it again, or put whole ones there.",
            ) from error
        arrays = {}
        for split, found in sets.items():
            images = np.asarray(found.data)
            labels = np.asarray(found.labels if self.kind.by_split else found.targets).astype(np.int64)
            if images.ndim == 3:
                images = images[..., None]
            elif images.shape[1] == 3 and images.shape[3] != 3:
                images = images.transpose(0, 2, 3, 1)
            if self.which == "EMNIST":
                images = images.transpose(0, 2, 1, 3)  # its files hold them with the axes exchanged
            arrays[split] = images, labels
        names = getattr(sets["train"], "classes", None)
        classes = len(names) if names else max(int(labels.max()) for _, labels in arrays.values()) + 1
        return [str(name) for name in names or range(classes)], arrays

    def _dataset(self, split: str, download: bool):
        make = getattr(import_torchvision().datasets, self.which)
        arguments: dict = {"split": split} if self.kind.by_split else {"train": split == "train"}
        if self.which == "EMNIST":
            arguments["split"] = self.split
        try:
            return make(str(self.root), download=download, **arguments)
        except ModuleNotFoundError as error:
            package = str(error.name).partition(".")[0]
            raise DataError(
                f"torchvision reads {self.title} by the package {package}, which is not installed.",
                f"Install it: pip install {package}.",
            ) from error

    def _download(self, on_progress: Progress) -> None:
        """In a thread of its own, while this one reports how much of it is on the disk."""
        if self.kind.needs:
            _need(self.kind.needs, self.title)
        with files.disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
        failure: list[BaseException] = []
        before = files.size_of(self.root)

        def fetch() -> None:
            try:
                for split in SPLITS:
                    self._dataset(split, download=True)
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=fetch, name=f"download {self.which}", daemon=True)
        thread.start()
        report: Callable[[int], None] = timed(on_progress, self.kind.size)
        while thread.is_alive():
            thread.join(LOOK)
            report(max(0, min(files.size_of(self.root) - before, self.kind.size)))
        if failure:
            missing = [path for path in self.needed() if not path.is_file()] or self.needed()
            raise DataError(
                f"{self.title} is not in {self.root}, and could not be downloaded ({_one_line(failure[0])}).",
                f"Put its files there by hand: {', '.join(map(str, missing[:8]))}.",
            ) from failure[0]


def _need(package: str, title: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise DataError(
            f"torchvision reads {title} by the package {package}, which is not installed.",
            f"Install it: pip install {package}.",
        )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def load(name: DatasetName, on_progress: Progress) -> Dataset:
    source = TorchvisionSet(name)
    source.fetch(on_progress)
    return store.load(source, on_progress)


@functools.cache
def import_torchvision():
    """torchvision, also beside a build of torch that its binary operators were not made for.

    The package index serves a CUDA build only; beside a CPU build of torch its import stops at two operators whose
    schemas its binary would have defined. Neither is used here.
    """
    import torch

    try:
        return importlib.import_module("torchvision")
    except ImportError as error:
        raise DataError(
            f"torchvision cannot be imported ({error}).", "Install it: pip install torchvision, as made for your torch."
        ) from error
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept_alive.append(library)
        return importlib.import_module("torchvision")


_kept_alive: list = []  # a library that is collected takes its operators with it
