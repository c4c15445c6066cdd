"""Runs side by side: do their scores agree, what does that mean, and which images moved? No torch.

Two trainings have scores for the same question where they share a target and training images. Of one data set they
share all; of two, the images that have the same number and the same pixels in both, such as the sample and the sample
with wrong labels. Nothing else is compared.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from engine import config, datasets
from engine.analysis import lds
from engine.analysis.trust import figure
from engine.datasets.base import PIECE, Dataset
from engine.errors import ConfigError
from engine.runs.manifest import Manifest
from engine.runs.run import Summary
from engine.runs.scores import TargetRef
from engine.targets import OWN, TRAIN, Target, target_function

TOP = 50  # images of the lists whose overlap is told

STRONG, OTHERS = 500, 2000  # points of a scatter: the strongest of either run, and at random

MOST_RUNS = 20  # in one table

Setting = tuple[str, object, object]  # its dotted name, and its values in two runs

WINDOW, WHOLE = "window", "effect of the whole training"

METHOD, REPLAYED = "scores of", "a replay"  # who made them, where either run has imported ones

# What to expect of two trainings that differ in nothing but their seed: seeds 0 to 3 of the preset `sample`, eight test
# images, measured by `make seeds` (docs/trust.md). Medians of the pairs of seeds, lowest and highest.
SEEDS_RANK, SEEDS_LINEAR, SEEDS_TOP = (0.17, 0.20), (0.53, 0.61), (0.39, 0.46)
ONE_TARGET = (0.10, 0.27)  # rank correlation of single targets, lowest and highest
MEANS_RANK, MEANS_LINEAR = (
    0.27,
    0.71,
)  # of the mean of two seeds with that of the two others: medians of the three pairs


# -- what two runs share


@dataclass(frozen=True, eq=False)
class SharedImages:
    """Training images of the same number and the same pixels in two data sets; and which test images are the same, with
    their labels. None stands for all, where the data are the same."""

    indices: np.ndarray | None  # int64 [S], sorted
    relabelled: np.ndarray  # int64: those of them that have another label
    of: tuple[int, int]  # how many training images the two have
    tests: np.ndarray | None = None  # bool, by their number

    def __len__(self) -> int:
        return self.of[0] if self.indices is None else len(self.indices)


def shared_images(a: Dataset, b: Dataset) -> SharedImages:
    """Raises `ConfigError` where they share none that can be told to be the same."""
    n_a, n_b = len(a.train_labels), len(b.train_labels)
    if a.fingerprint == b.fingerprint:
        return SharedImages(None, np.empty(0, np.int64), (n_a, n_b))
    what, why = f"The data sets {a.name} and {b.name} share no training image", ""
    if a.classes != b.classes:
        why = "they have other classes"
    elif a.image_shape != b.image_shape:
        why = "their images have other sizes"
    else:
        indices = np.flatnonzero(_same_pixels(a.train_images, b.train_images))
        if len(indices) > 1:
            relabelled = indices[a.train_labels[indices] != b.train_labels[indices]]
            tests = _same_pixels(a.test_images, b.test_images)
            n = len(tests)
            return SharedImages(indices, relabelled, (n_a, n_b), tests & (a.test_labels[:n] == b.test_labels[:n]))
        why = "no two of the same number have the same pixels"
    raise ConfigError(f"{what}: {why}.", "Choose two runs of the same images.")


def _same_pixels(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of images uint8 [N, H, W, C] and [M, H, W, C], bool [min(N, M)], read a piece at a time."""
    n = min(len(a), len(b))
    size = max(1, PIECE // max(1, a[0].nbytes))
    same = np.empty(n, bool)
    for start in range(0, n, size):
        piece = slice(start, min(start + size, n))
        same[piece] = (a[piece] == b[piece]).all(axis=(1, 2, 3))
    return same


@dataclass(frozen=True, eq=False)
class Common:
    """A target that both runs have, as the first of them names it, with its scores of the S training images that both
    share: float32 [S] each, memory-mapped where that is all of them. `source` says by SHA-256 what they are.

    Of imported scores `other` is another function, in a unit of its own; `b_N` then has the sign that the scores of `a`
    have, so that both say the same of an image that helps: `flipped` says whether that is minus what B has."""

    target: TargetRef
    a_N: np.ndarray
    b_as_it_is: np.ndarray
    source: tuple[str | int, ...]
    images: np.ndarray | None = None  # int64 [S]; None: all
    other: TargetRef | None = None  # as the second run names it; None: of the same function
    flipped: bool = False

    @property
    def b_N(self) -> np.ndarray:
        """In the sign of `a_N`. Made when it is asked for: all targets at once are gigabytes."""
        return -self.b_as_it_is if self.flipped else self.b_as_it_is

    def numbers(self, places: Sequence[int] | np.ndarray) -> np.ndarray:
        """Which training images these places of `a_N` and `b_N` are: int64."""
        places = np.asarray(places, np.int64)
        return places if self.images is None else self.images[places]

    def place_of(self, image: int) -> int | None:
        """Where a training image stands in `a_N` and `b_N`; None where it is not shared."""
        places = np.arange(len(self.a_N)) if self.images is None else self.images
        place = int(np.searchsorted(places, image))
        return place if place < len(places) and places[place] == image else None

    @property
    def largest(self) -> tuple[float, float]:
        """|score| in each run; of one function, in either."""
        of_a, of_b = (float(np.abs(scores).max()) for scores in (self.a_N, self.b_N))
        return (of_a, of_b) if self.other is not None else (max(of_a, of_b), max(of_a, of_b))


def of_the_same_data(record: Manifest, others: list[Summary]) -> list[Summary]:
    """Those of `others` that have scores on the same data as the run; damaged ones cannot be known to."""
    return [other for other in scored(record, others) if other.data_fingerprint == record.data_fingerprint]


def scored(record: Manifest, others: list[Summary]) -> list[Summary]:
    """Those of `others` that have scores, those of the same data first, in their order."""
    runs = [other for other in others if other.scored and other.id != record.folder.name]
    return sorted(runs, key=lambda other: other.data_fingerprint != record.data_fingerprint)


def check(a: Manifest, b: Manifest) -> None:
    """Raises `ConfigError` unless both are runs with scores, and not the same one."""
    if a.folder == b.folder:
        raise ConfigError(f"The link compares run {a.run_id} with itself.", "Choose another run beside it.")
    for record in (a, b):
        if not record.score_sets.targets():
            raise ConfigError(
                f"Run {record.run_id} has no scores to compare; it is {record.status}.",
                "Replay it for some targets, or choose another run.",
            )


def common(a: Manifest, b: Manifest, shared: SharedImages | None = None) -> list[Common]:
    """The targets that both runs have, by name and function, in the order of `a`, with the scores of the `shared`
    training images (None: the data are the same, and all are). A target is in common where it asks about the same
    images with the same labels in both. Imported scores of a target are held against those of whatever function the
    other run has of it, its loss first."""
    refs_b = {target.key: target for target in b.score_sets.targets()}
    any_function = _by_name(b) if a.method or b.method else {}
    images = None if shared is None else shared.indices
    found = []
    for target in a.score_sets.targets():
        other = refs_b.get(target.key, any_function.get(target.name))
        if other is None or not _asks_the_same(a, b, target.target, shared):
            continue
        sha_a, sha_b = a.score_sets.sha256(target.score_set), b.score_sets.sha256(other.score_set)
        source = (sha_a, target.row, sha_b, other.row)
        a_N, b_N = a.score_sets.row(target), b.score_sets.row(other)
        flipped = len({target_function(ref.function).harmful_sign for ref in (target, other)}) > 1
        if images is not None:
            a_N, b_N, source = a_N[images], b_N[images], (*source, a.data_fingerprint or "", b.data_fingerprint or "")
        if flipped:
            source = (*source, "flipped")
        of_b = None if other.function == target.function else other
        found.append(Common(target, a_N, b_N, source, images, of_b, flipped))
    return found


def _by_name(record: Manifest) -> dict[str, TargetRef]:
    """A target of each name: of its loss, where it has that, else the first."""
    refs = record.score_sets.targets()
    return {ref.name: ref for ref in [*reversed(refs), *(ref for ref in refs if ref.function == "loss")]}


def _asks_the_same(a: Manifest, b: Manifest, target: Target, shared: SharedImages | None) -> bool:
    """Whether it is about the same images in both, with the same labels. An uploaded image is named by its content."""
    if (shared is None or shared.indices is None) and not target.of_the_model:
        return True
    try:
        of_a, of_b = (target.resolve(datasets.load(r.config.dataset), r.test_logits) for r in (a, b))
    except ConfigError:  # an image that one of the data sets does not have
        return False
    if not np.array_equal(of_a.indices, of_b.indices):
        return False
    if shared is None or shared.indices is None or of_a.split == OWN:
        return True
    if of_a.split == TRAIN:
        return bool(np.isin(of_a.indices, np.setdiff1d(shared.indices, shared.relabelled)).all())
    assert shared.tests is not None
    return bool((of_a.indices < len(shared.tests)).all() and shared.tests[of_a.indices].all())


# -- figures


@dataclass(frozen=True)
class Agreement:
    """Of the scores of S training images in two runs. NaN where either does not vary."""

    spearman: float  # of their order, in which each image counts alike, however small its score
    pearson: float  # of the scores as they are, in which the strong images count most
    overlap: float  # share of the `TOP` images of largest |score| that is the same
    identical: bool  # bit for bit


def agreement(a_N: np.ndarray, b_N: np.ndarray) -> Agreement:
    same = np.intersect1d(strongest(a_N, TOP), strongest(b_N, TOP))
    return Agreement(
        float(lds.spearman(a_N, b_N)),
        _pearson(a_N, b_N),
        len(same) / min(TOP, len(a_N)),
        bool(np.array_equal(a_N, b_N)),
    )


def _pearson(a_N: np.ndarray, b_N: np.ndarray) -> float:
    a, b = (np.asarray(s, np.float64) - np.mean(s, dtype=np.float64) for s in (a_N, b_N))
    scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / scale if scale else float("nan")


def median(values: Iterable[float]) -> float | None:
    """Of those that are numbers; None where none is."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.median(known)) if known else None


@dataclass(frozen=True)
class Summed:
    """The agreements of all targets that two runs have in common: medians, None where nothing varied."""

    targets: int
    spearman: float | None
    pearson: float | None
    overlap: float | None
    identical: bool


def summed(agreements: list[Agreement]) -> Summed:
    return Summed(
        len(agreements),
        median(each.spearman for each in agreements),
        median(each.pearson for each in agreements),
        median(each.overlap for each in agreements),
        bool(agreements) and all(each.identical for each in agreements),
    )


def moved(a_N: np.ndarray, b_N: np.ndarray, k: int) -> np.ndarray:
    """The k images whose scores differ most, each run's scores in units of their standard deviation: int64 [k]."""
    scaled = [np.asarray(s, np.float64) / max(float(np.std(s, dtype=np.float64)), 1e-300) for s in (a_N, b_N)]
    distance = np.abs(scaled[0] - scaled[1])
    k = min(k, len(distance))
    top = np.argpartition(distance, -k)[-k:]
    return top[np.lexsort((top, -distance[top]))]


def drawn(a_N: np.ndarray, b_N: np.ndarray) -> np.ndarray:
    """Images worth a point in a scatter: the strongest of either run, and random others: int64, sorted."""
    rest = np.random.default_rng(0).choice(len(a_N), min(OTHERS, len(a_N)), replace=False)
    return np.unique(np.concatenate([strongest(a_N, STRONG), strongest(b_N, STRONG), rest]))


def strongest(scores_N: np.ndarray, k: int) -> np.ndarray:
    k = min(k, len(scores_N))
    return np.argpartition(np.abs(scores_N), -k)[-k:]


# -- what they mean


def settings(record: Manifest) -> dict[str, object]:
    """What decides a training, by dotted names; and, in words, what its scores are the effect of. Of imported scores:
    who made them, for no recipe is known."""
    if record.method:
        return {"dataset": record.config.dataset, METHOD: record.method}
    values = {f"recipe.{name}": value for name, value in vars(record.config.recipe).items()}
    values |= {name: config.get(record.config, name) for name in config.TRAINING if name != "recipe"}
    return {**values, WINDOW: record.window_phrase or WHOLE}


def differences(a: Manifest, b: Manifest) -> list[Setting]:
    """The settings that differ, by their dotted names, with the values in both. Of imported scores: who made them."""
    if a.method or b.method:
        names = [record.method or REPLAYED for record in (a, b)]
        if names[0] == names[1]:
            names = [f"{name} in {record.folder.name}" for name, record in zip(names, (a, b), strict=True)]
        return [(METHOD, names[0], names[1])]
    first, second = settings(a), settings(b)
    return [(name, value, second[name]) for name, value in first.items() if value != second[name]]


def other_data(a: Manifest, b: Manifest) -> bool:
    """Whether two runs have other images or labels, or the same in another order; where the content of either was
    never read, by the name of the data set."""
    if None in (a.data_fingerprint, b.data_fingerprint):
        return a.config.dataset != b.config.dataset
    return a.data_fingerprint != b.data_fingerprint


def meaning(differ: list[Setting], found: Summed, images: int) -> str:
    """What the agreement of two runs says, in sentences, and what was to be expected. `images` are compared."""
    of_methods = [pair for pair in differ if pair[0] == METHOD]
    if found.identical:
        unused = " The settings that differ play no part in this training." if differ and not of_methods else ""
        return f"Identical: every score is the same, bit for bit.{unused}"
    if found.spearman is None or found.pearson is None or found.overlap is None:
        return "The scores of one of the runs are all the same, so that there is no order to compare."
    if not differ:
        return (
            "Recipe, seed and data are the same, and the scores are so to rounding only: another kind of device, or "
            f"another number of threads, sums in another order. Rank correlation {found.spearman:.4f}."
        )
    top, of = min(TOP, images), "of one target" if found.targets == 1 else f"median of {found.targets:,} targets"
    figures = (
        f"The order of the scores agrees with a rank correlation of {figure(found.spearman)} ({of}), their sizes with "
        f"a linear correlation of {figure(found.pearson)}, and {100 * found.overlap:.0f} % of the {top} strongest "
        f"images are the same (by chance 0, 0 and {100 * top / images:.1f} %)."
    )
    if of_methods:
        _, of_a, of_b = of_methods[0]
        return f"{figures} Scores of A are those of {of_a}, of B those of {of_b}: the units differ, and order counts."
    if questions := [pair for pair in differ if pair[0] == WINDOW]:
        _, of_a, of_b = questions[0]
        return f"{figures} They answer other questions: the scores of A are the {of_a}, those of B the {of_b}."
    return f"{figures} {_expected([name for name, *_ in differ] == ['recipe.seed'], found.spearman)}"


def _expected(seed_alone: bool, rank: float) -> str:
    """Beside what seeds of the sample gave."""
    low, high = ONE_TARGET
    seeds = f"{SEEDS_RANK[0]:.2f} to {SEEDS_RANK[1]:.2f} between seeds of the sample, for single test images"
    if rank > high:
        return f"Trainings that differ in their seed alone need not agree so well: it was {seeds}."
    if seed_alone and rank < low:
        return f"That is less than was measured ({seeds}): look at the smoothness of both on Trust."
    if seed_alone:
        return f"This is expected of trainings that differ in their seed alone: it was {seeds}."
    if rank < low:
        return f"Trainings that differ in their seed alone agree better ({seeds}): the recipes matter, too."
    return f"Trainings that differ in their seed alone agree no better: it was {seeds}."
