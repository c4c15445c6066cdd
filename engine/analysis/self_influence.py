"""Self-influence as a run keeps it, the images that it is asked of, and rankings by it. No torch.

    scores/self-influence-<n>.npy   float32 [3, N]: what each training image did to its own loss, dφ_i/dw_i in nats per
                                    unit of example weight; its standard error, 0 where it is exact; how many images
                                    were replayed together for it. NaN where none was computed yet.

What is computed is added to what there is: a file of a higher number takes the place of the one before in the manifest.
Pages show `Known.rise_N`, minus the score: by how much the image's own loss would rise without it, as far as the
derivative foretells.

    all   0-99,4711   class:coat   loss:500 (of the highest losses)     images, as people name them
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from engine import files
from engine.analysis.lists import files_of
from engine.analysis.logits import judged
from engine.datasets.base import Dataset
from engine.errors import ConfigError, IntegrityError
from engine.runs.manifest import Manifest
from engine.targets import split_targets
from engine.targets.classes import class_named

if TYPE_CHECKING:
    import pandas as pd

PREFIX = "self-influence"
FILE = re.compile(rf"scores/{PREFIX}-(\d+)\.npy")
RANGE = re.compile(r"(0|[1-9][0-9]{0,8})(?: *[-–] *(0|[1-9][0-9]{0,8}))?")
FORMS = "all, class:CLASS, loss:500 (those of the highest losses), or numbers and ranges such as 0-99,4711"
A_PART = 16  # targets that go through the training together: what a kill loses at most
MOST_TOGETHER = 1024  # images a target: of more, the estimate says nothing that the loss does not


# -- which images


def canonical(text: str, dataset: Dataset) -> str:
    """The one text of a choice of images, with numbers alone. Raises `ConfigError` for one that is none, or that names
    an image or a class which the data set has not."""
    n, text = dataset.sizes.n_train, text.strip() if isinstance(text, str) else text
    if not isinstance(text, str) or not text:
        raise ConfigError("No images were named.", f"Write {FORMS}.", {"images": "name some"})
    head, colon, rest = text.partition(":")
    if text == "all":
        return text
    if colon and head == "class":
        number = class_named(rest, dataset.classes)
        if number >= len(dataset.classes):
            raise _no_images(f"There is no class {number}: the last is {len(dataset.classes) - 1}.")
        return f"class:{number}"
    if colon and head == "loss":
        if not re.fullmatch(r"[1-9][0-9]{0,8}", rest):
            raise _no_images(f"«{text[:60]}» does not say how many images.")
        return f"loss:{rest}"
    return _numbers_in_words(_numbers(text, n))


def _no_images(what: str) -> ConfigError:
    return ConfigError(what, f"Write {FORMS}.", {"images": what})


def _numbers(text: str, n: int | None = None) -> np.ndarray:
    """Of a list of numbers and ranges: each once, in ascending order."""
    pieces = []
    for part in split_targets(text):
        match = RANGE.fullmatch(part)
        if match is None:
            raise _no_images(f"«{part[:60]}» names no training images.")
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last or (n is not None and last >= n):
            limit = "" if n is None else f" of the training images 0 to {n - 1:,}"
            raise _no_images(f"{part} names none{limit}.")
        pieces.append(np.arange(first, last + 1))
    return np.unique(np.concatenate(pieces))


def listed(images: np.ndarray) -> str:
    """The text of these images, int64 [M], as `canonical` writes it."""
    return _numbers_in_words(np.unique(images))


def _numbers_in_words(images: np.ndarray) -> str:
    runs = np.split(images, np.flatnonzero(np.diff(images) != 1) + 1)
    return ",".join(f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def chosen(text: str, record: Manifest, dataset: Dataset) -> np.ndarray:
    """The images of a `canonical` text, int64 [M], in ascending order."""
    n = dataset.sizes.n_train
    if text == "all":
        return np.arange(n)
    head, _, rest = text.partition(":")
    if head == "class":
        images = np.flatnonzero(dataset.train_labels == int(rest))
        if not len(images):
            raise _no_images(f"No training image has the label {dataset.classes[int(rest)]}.")
        return images
    if head == "loss":
        if "model/train_logits.npy" not in record.files:
            raise _no_images(f"Run {record.run_id} has no losses of its training images: an older version made it.")
        given, *_ = judged(record.train_logits(), dataset.train_labels)
        return np.sort(np.argsort(given, kind="stable")[: int(rest)])
    return _numbers(text, n)


def in_words(text: str) -> str:
    """A `canonical` text for people, without the names that only the data set knows."""
    head, _, rest = text.partition(":")
    if text == "all":
        return "all training images"
    if head == "class":
        return f"the training images of class {rest}"
    if head == "loss":
        return f"the {int(rest):,} training images of the highest losses"
    images = len(_numbers(text))
    return f"{images:,} training images" if images > 1 else f"training image {text}"


def replays(images: int, together: int) -> int:
    """Targets that a replay for so many images carries, so many of them together."""
    return -(-images // together)


# -- what is known


@dataclass(frozen=True, eq=False)
class Known:
    """`scores` float32 [3, N], as the module says; `sha256` of its file."""

    scores: np.ndarray
    sha256: str

    @property
    def score_N(self) -> np.ndarray:
        return self.scores[0]

    @property
    def error_N(self) -> np.ndarray:
        return self.scores[1]

    @property
    def together_N(self) -> np.ndarray:
        return self.scores[2]

    @cached_property
    def rise_N(self) -> np.ndarray:
        """By how much each image's own loss would rise without it, in nats; NaN where that is not known."""
        return -self.score_N

    @cached_property
    def images(self) -> np.ndarray:
        """Those of which it is known, int64 [M], the largest first."""
        known = np.flatnonzero(np.isfinite(self.score_N))
        return known[np.argsort(self.score_N[known], kind="stable")]

    @property
    def estimated(self) -> int:
        """Of how many images it is an estimate."""
        return int((self.together_N > 1).sum())

    @cached_property
    def spread(self) -> tuple[float, float, float]:
        """The smallest, the median and the largest rise, nats."""
        low, median, high = np.percentile(self.rise_N[self.images], (0, 50, 100)).tolist()
        return low, median, high

    def places(self, labels_N: np.ndarray, label: int | None) -> np.ndarray:
        """Where the images of this label, or all, stand in `images`, from 0: int64 [M]."""
        return np.arange(len(self.images)) if label is None else np.flatnonzero(labels_N[self.images] == label)

    def in_order(self, images: np.ndarray) -> np.ndarray:
        """Images, int64 [M], the largest first; those of which it is not known last, as they came."""
        return images[np.argsort(self.score_N[images], kind="stable")]

    def as_good_as(self, together: int) -> np.ndarray:
        """bool [N]: whether it is known as well as so many images a target would tell it."""
        return self.together_N <= together  # NaN is not


def recorded_name(record: Manifest) -> str | None:
    """The file that holds it, by its path in the run; the newest, where there are several."""
    names = [name for name in record.files if FILE.fullmatch(name)]
    return max(names, key=lambda name: int(FILE.fullmatch(name)[1]), default=None)  # type: ignore[index]


def known(record: Manifest) -> Known | None:
    """None where none was computed. Raises `IntegrityError` where the file is damaged."""
    name = recorded_name(record)
    if name is None:
        return None
    remedy = f"Delete the scores of run {record.run_id} and compute its self-influence again."
    scores = files.read_npy(record.folder / name, record.files[name], remedy)
    if scores.ndim != 2 or scores.shape[0] != 3 or scores.dtype != np.float32:
        raise IntegrityError(f"{record.folder / name} is no float32 [3, N].", remedy)
    return Known(np.asarray(scores), record.files[name])


# -- rankings


def ranked(record: Manifest, dataset: Dataset, known: Known) -> "pd.DataFrame":
    """The images of which it is known, the most memorised first. Columns: rank, index, file where the data set has
    files, given_label, self_influence (the rise of the own loss without the image, nats), standard_error (0: exact);
    where the run has the model's answers to its training images, model_label, probability (of the label given) and
    loss (its −log); and, where the data set knows it, true_label."""
    import pandas as pd

    images, names = known.images, np.array(dataset.classes)
    columns = {
        "rank": np.arange(1, len(images) + 1),
        "index": images,
        **files_of(dataset, images),
        "given_label": names[dataset.train_labels[images]],
        "self_influence": known.rise_N[images],
        "standard_error": known.error_N[images],
    }
    if "model/train_logits.npy" in record.files:
        given, predicted, _ = judged(record.train_logits()[images], dataset.train_labels[images])
        columns |= {"model_label": names[predicted], "probability": np.exp(given), "loss": -given}
    if dataset.true_train_labels is not None:
        columns["true_label"] = names[dataset.true_train_labels[images]]
    return pd.DataFrame(columns)


@dataclass(frozen=True)
class OfClass:
    """Of the images of one label of which it is known: how many, and median and largest rise, in nats."""

    label: int
    images: int
    median: float
    largest: float


def by_class(known: Known, labels_N: np.ndarray) -> list[OfClass]:
    """The class with the largest median first; classes without an image are left away."""
    labels, rises = labels_N[known.images], known.rise_N[known.images]
    found = []
    for label in np.unique(labels):
        of = rises[labels == label]
        found.append(OfClass(int(label), len(of), float(np.median(of)), float(of.max())))
    return sorted(found, key=lambda each: -each.median)
