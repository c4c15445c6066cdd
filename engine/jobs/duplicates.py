"""The job that finds images that are the same, or nearly, within and between the splits.

    duplicates/<by>.json    groups and twins (`engine.analysis.duplicates`)

First the images whose pixels are the same are put together, by their digests: of all of them one is compared further,
so that a data set of one image many times over takes no more than one. Those that are left are compared pair by pair
(`engine.core.near`), by what `by` says:

    exact      nothing further
    hash       bits of the perceptual hash that differ (`engine.datasets.perceptual`)
    pixels     1 − cosine of the images themselves, scaled to 16 × 16, less their mean
    features   1 − cosine of the model's penultimate features, less their mean (`engine.jobs.features`)
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from engine import files
from engine.analysis import duplicates as kept
from engine.analysis.wording import count
from engine.datasets import duplicates as exact
from engine.datasets import perceptual
from engine.datasets.base import SPLITS, Dataset
from engine.errors import ConfigError, DataError
from engine.jobs import ahead
from engine.jobs.job import Job, Phase, Result
from engine.runs.manifest import Manifest
from engine.runs.run import Run

if TYPE_CHECKING:
    import torch

    from engine.analysis.features import Features
    from engine.core.near import Neighbours, Similar, Star
    from engine.jobs.session import DataSession

SENSIBLE = {kept.EXACT: 0.0, kept.HASH: 2.0, kept.PIXELS: 0.01, kept.FEATURES: 0.01}
"""The distance at most where none is asked for: measured, docs/duplicates.md."""

OPEN = -1.0  # a distance that is left to `SENSIBLE`

PIECE = 256  # images that are looked at between two looks at whether to stop

LOOK = 4e-5  # seconds an image: its digest and its hash

PAIR = {kept.EXACT: 0.0, kept.HASH: 8e-9, kept.PIXELS: 1e-8, kept.FEATURES: 1e-8}  # seconds, on two cores


@dataclass(frozen=True)
class FindDuplicates(Job):
    """By one of `kept.WAYS`, up to the distance `at_most`: bits that differ, or 1 − cosine. `turned`: an image turned
    by a quarter, or mirrored, is alike, too; by hash or exactly, for features are of the image as it stands."""

    kind: ClassVar[str] = "duplicates"
    stages: ClassVar[tuple[str, ...]] = ("prepare", "digests", "pairs", "done")
    needs_model: ClassVar[bool] = False

    by: str = kept.HASH
    at_most: float = OPEN
    turned: bool = False

    def check(self, run: Run, dataset: Dataset) -> Self:
        record = run.manifest()
        if not record.trained and not record.method:  # the pictures of imported scores are whole
            raise ConfigError(f"Run {run.id} was not trained to its end.", "Resume it first.")
        asked = SENSIBLE.get(self.by, self.at_most) if self.at_most == OPEN else self.at_most
        at_most = kept.check_distance(self.by, asked)
        if self.turned and self.by not in (kept.EXACT, kept.HASH):
            raise ConfigError(
                f"Images are not compared turned by {self.by}, which are of each image as it stands.",
                f"Compare by {kept.HASH} for turned and mirrored copies, or as they stand.",
            )
        if self.by == kept.FEATURES:
            _features(record)
        return replace(self, at_most=at_most)

    def doing(self) -> str:
        what = {
            kept.EXACT: "the same in every pixel",
            kept.HASH: "alike by their perceptual hash",
            kept.PIXELS: "alike in their pixels",
            kept.FEATURES: "alike to the model",
        }.get(self.by, f"alike by {self.by}")
        return f"Finding images that are {what}{', also turned or mirrored' if self.turned else ''}"

    def ahead(self, run: Run, dataset: Dataset) -> tuple[Phase, ...]:
        step, images = ahead.measured(run).step, dataset.sizes.n_train + dataset.sizes.n_test
        if not step or self.by not in PAIR:
            return ()
        turns = perceptual.TURNS if self.turned else 1
        look, pairs = LOOK * images * turns, PAIR[self.by] * images**2 / 2 * (2 * turns - 1)
        phases = (Phase("digests", max(1, round(look / step))), Phase("pairs", max(1, round(pairs / step))))
        return phases[:1] if self.by == kept.EXACT else phases

    def do(self, session: "DataSession") -> Result:
        began, journal = time.monotonic(), session.journal
        journal.update(status_said="validating")
        found = replace(find(session, self), seconds=time.monotonic() - began)
        session.check_data()
        files.make_folder(session.run.path / kept.FOLDER)
        relative, content = kept.path_of(self.by), found.to_json()
        path = session.run.path / relative
        size = 32 * len(found.images) + 1024
        journal.add_files({relative: journal.save(size, lambda: files.write_json(path, content))})
        journal.timing("duplicates_seconds", found.seconds)
        journal.note(
            f"{count(len(found.starts), 'groups')} of {len(found.images):,} images that are alike by {found.of}, and "
            f"{count(len(found.twins), 'test images')} with a twin in training, in {found.seconds:.1f} s."
        )
        return Result()


def _features(record: Manifest):
    from engine.analysis import features

    found = features.read(record)
    if found is None:
        never, others = features.why_not(record), f"ompare by {kept.HASH} or {kept.PIXELS}."
        if never:
            raise ConfigError(never, f"C{others}")
        raise ConfigError(
            f"Run {record.run_id} has no features of its images yet.",
            f"Compute them: python -m engine features {record.run_id}; or c{others}",
        )
    return found


# -- the work


@dataclass(frozen=True, eq=False)
class Distinct:
    """Images that are not the same as an earlier one. `first` int64 [U], ascending by whether a training image is among
    their copies: the first `training` have one. `copies` are the numbers of all that are the same, itself included."""

    first: np.ndarray
    copies: list[list[int]]
    training: int


def distinct(dataset: Dataset, turned: bool, before: Callable[[int], None]) -> Distinct:
    """By the digests of their pixels. `before(done)` images, now and then."""
    digest = exact.digest_of_turns if turned else exact.digest
    copies: dict[bytes, list[int]] = {}
    number = training = 0
    for split in SPLITS:  # training first, so that the first of the same is one where there is any
        for image in dataset.images(split):
            if number % PIECE == 0:
                before(number)
            copies.setdefault(digest(image), []).append(number)
            number += 1
        training = training or len(copies)
    every = list(copies.values())
    return Distinct(np.array([numbers[0] for numbers in every], np.int64), every, training)


def find(session: "DataSession", job: FindDuplicates) -> kept.Duplicates:
    """All of it, but for the time that it took."""
    from engine.core import near

    dataset, journal = session.dataset, session.journal
    n = dataset.sizes.n_train + dataset.sizes.n_test
    meter = journal.phase("digests", 2 * n if job.by == kept.HASH else n)

    def look(done: int) -> None:
        meter.report(done)
        session.check_cancelled(done)

    images = distinct(dataset, job.turned, look)
    similar, of, without = _similar(session, job, images, lambda done: look(n + done))
    meter.report(meter.steps)
    if similar is None:
        return _put_together(job, images, dataset, of)
    meter = journal.phase("pairs", near.blocks(similar.n))

    def compare(done: int) -> None:
        meter.report(done)
        session.check_cancelled(done)

    least = 1 - job.at_most / (perceptual.BITS / 2 if job.by == kept.HASH else 1)
    around = near.neighbours(similar, images.training, least, compare)
    groups = near.stars(similar, around, least, session.check_cancelled)
    meter.report(meter.steps)
    return _put_together(job, images, dataset, of, around, groups, without)


def _similar(
    session: "DataSession", job: FindDuplicates, images: Distinct, before: Callable[[int], None]
) -> "tuple[Similar | None, str, int]":
    """What the distinct images are compared by, what that is in words, and of how many there is none."""
    from engine import device as devices

    device, dataset = devices.choose("auto"), session.dataset
    if job.by == kept.EXACT:
        return None, "their pixels, each of them", 0
    if job.by == kept.HASH:
        return _hashes(dataset, images, job.turned, device, before)
    from engine.analysis import features

    found = features.of_pixels(dataset) if job.by == kept.PIXELS else _features(session.manifest)
    return _directions(found, images, device), f"the {found.of}", 0


def _hashes(
    dataset: Dataset, images: Distinct, turned: bool, device: "torch.device", before: Callable[[int], None]
) -> "tuple[Similar, str, int]":
    from engine.core.near import Hashes

    ways, flat = [], []
    for start in range(0, len(images.first), PIECE):
        before(start)
        pixels = np.stack([_image(dataset, number) for number in images.first[start : start + PIECE].tolist()])
        found = perceptual.coefficients(pixels)
        flat.append(perceptual.is_flat(found))
        turns = perceptual.turned(found) if turned else found[None]
        ways.append(np.stack([perceptual.bits(one) for one in turns]))
    none = np.concatenate(flat)
    words = f"their perceptual hash (pHash, {perceptual.BITS} bits{', of all eight turns' if turned else ''})"
    return Hashes.of(np.concatenate(ways, 1), none, device), words, int(none.sum())


def _image(dataset: Dataset, number: int) -> np.ndarray:
    n_train = dataset.sizes.n_train
    return dataset.train_images[number] if number < n_train else dataset.test_images[number - n_train]


def _directions(found: "Features", images: Distinct, device: "torch.device") -> "Similar":
    """Raises `DataError` where a feature is not finite."""
    from engine.core.near import Directions

    training = len(found.train)

    def rows(index: np.ndarray) -> np.ndarray:
        numbers = images.first[index]
        of_test = numbers >= training
        read = np.empty((len(numbers), found.train.shape[1]), np.float32)
        read[~of_test] = found.train[numbers[~of_test]]
        read[of_test] = found.test[numbers[of_test] - training]
        return read

    similar = Directions.of(rows, len(images.first), device)
    if not similar.mean.isfinite().all():
        raise DataError(f"Not all of the {found.of} are finite.", f"Compare by {kept.HASH}, which looks at the images.")
    return similar


def _put_together(
    job: FindDuplicates,
    images: Distinct,
    dataset: Dataset,
    of: str,
    around: "Neighbours | None" = None,
    stars: "Sequence[Star]" = (),
    without: int = 0,
) -> kept.Duplicates:
    """Groups and twins of all images, from those of the distinct ones: the copies of an image are as near as it is. The
    largest group comes first."""
    groups: list[tuple[list[int], list[float]]] = []
    alone = np.ones(len(images.first), bool)
    for star in stars:
        numbers, distances = list(images.copies[star.middle]), [0.0] * len(images.copies[star.middle])
        for member, distance in zip(star.members.tolist(), _distances(job.by, star.similarity), strict=True):
            numbers += images.copies[member]
            distances += [distance] * len(images.copies[member])
        groups.append((numbers, distances))
        alone[[star.middle, *star.members]] = False
    several = np.array([len(copies) > 1 for copies in images.copies], bool)
    groups += [(images.copies[i], [0.0] * len(images.copies[i])) for i in np.flatnonzero(alone & several).tolist()]
    groups.sort(key=lambda group: (-len(group[0]), group[0][0]))
    sizes = np.array([len(numbers) for numbers, _ in groups], np.int64)
    n_train = dataset.sizes.n_train
    twins = sorted(_twins(job.by, images, around, n_train))
    return kept.Duplicates(
        by=job.by,
        at_most=job.at_most,
        turned=job.turned,
        of=of,
        n_train=n_train,
        n_test=dataset.sizes.n_test,
        distinct=len(images.first),
        pairs=0 if around is None else around.pairs,
        left_over=0 if around is None else int((alone & ~several & (around.degree > 0)).sum()),
        without_hash=without,
        seconds=0.0,
        starts=np.cumsum(sizes) - sizes,
        images=np.array([number for numbers, _ in groups for number in numbers], np.int64),
        distances=np.array([distance for _, distances in groups for distance in distances], np.float64),
        twin_tests=np.array([test for test, _, _ in twins], np.int64),
        twins=np.array([train for _, train, _ in twins], np.int64),
        twin_distances=np.array([distance for *_, distance in twins], np.float64),
    )


def _distances(by: str, similarity: np.ndarray) -> list[float]:
    """Bits that differ, or 1 − cosine."""
    if by == kept.HASH:
        return np.round((1 - similarity) * (perceptual.BITS / 2)).tolist()
    return np.maximum(1 - similarity.astype(np.float64), 0).tolist()


def _twins(by: str, images: Distinct, around: "Neighbours | None", n_train: int) -> Iterator[tuple[int, int, float]]:
    """Test image, training image and their distance: of each test image that has one the nearest."""
    for i, numbers in enumerate(images.copies):
        tests = [number - n_train for number in numbers if number >= n_train]
        if not tests:
            continue
        if i < images.training:
            yield from ((test, numbers[0], 0.0) for test in tests)
        elif around is not None and around.twin[i] >= 0:
            (distance,) = _distances(by, around.similarity[i : i + 1])
            yield from ((test, int(images.first[around.twin[i]]), distance) for test in tests)
