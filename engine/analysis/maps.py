"""Maps: all training images on a plane, those near each other that are alike. No torch.

What alike means is the source's:

    features    the model's penultimate features: images that look alike to the trained model
    influence   the columns of the scores [K, N]: images that act alike on the run's targets. Each target's scores are
                divided by their root mean square, so that no target counts more than another, and each image's K
                numbers by their length: the direction of its effects, not their strength
    pixels      the images, scaled down, where nothing else is there

and how they are drawn is the method's: `pca` (`engine.analysis.projection`, exact, the same each time) or `umap`
(McInnes, Healy and Melville, arXiv 1802.03426; neighbours stay together, distances between groups mean nothing). UMAP
is computed by a job (`engine.jobs.umap`) and kept, in the run's folder, as the plane of the features is:

    features/NAME-train.npy    float32 [N, 2]
    features/NAME-test.npy     float32 [M, 2]; there where the source has the test images, too
    features/NAME.json         `of`, `method`, `explained` as of a `Map`, and the digest of what it was made of: a map
                               of scores is another one once a target is added

with the NAMEs `pca-features`, `umap-features`, `umap-influence` and `umap-pixels`.

Do not use a map by influence with few targets: with fewer than `TARGETS` there is next to nothing to tell images apart.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine import files
from engine.analysis import features, projection
from engine.datasets.base import Dataset
from engine.errors import ConfigError, IntegrityError
from engine.runs import fields
from engine.runs.manifest import Manifest
from engine.targets import TEST, TRAIN, Target, TrainImage, UploadedImage

SOURCES = ("features", "influence", "pixels")
METHODS = ("pca", "umap")
TARGETS = 3  # that have scores, at least, for a map by influence
NEAREST = 500  # training images of a map of a target's neighbours
REMEDY = "Draw the map again."
BLOCK = 1 << 22  # numbers whose distances are taken at a time
FOLDER = features.FOLDER
SCORES = ("scores/",)
SIDECAR = {
    "of": fields.text,
    "method": fields.text,
    "made_of": fields.text,
    "explained": fields.Absent([fields.number]),
}

Save = Callable[[int, Callable[[], str]], str]


class _Recent:
    """What was made lately, by what it was made of: at most `most`."""

    def __init__(self, most: int):
        self._most, self._made, self._mutex = most, OrderedDict[tuple, Any](), threading.Lock()

    def get(self, key: tuple, make: Callable[[], Any]) -> Any:
        with self._mutex:  # two tabs that ask at once make it once
            if key not in self._made:
                self._made[key] = make()
            self._made.move_to_end(key)
            while len(self._made) > self._most:
                self._made.popitem(last=False)
            return self._made[key]


_directions, _drawn, _near = _Recent(2), _Recent(8), _Recent(16)


@dataclass(frozen=True, eq=False)
class Map:
    """`train` float32 [N, 2]; `test` [M, 2], None where the source knows no test images. `explained`: the share of the
    variance that each axis shows, None of a method that has none. `of` says in words what it was made of."""

    train: np.ndarray
    test: np.ndarray | None
    of: str
    method: str
    explained: tuple[float, ...] | None = None


@dataclass(frozen=True, eq=False)
class Rows:
    """What a source says of the images: `train` [N, D], `test` [M, D] or None, `of` in words."""

    train: np.ndarray
    test: np.ndarray | None
    of: str


# -- the sources


def rows_of(record: Manifest, dataset: Dataset, source: str) -> Rows:
    """Raises `ConfigError` where the run has not what the source needs, and says what that is."""
    if source == "pixels":
        pixels = features.of_pixels(dataset)
        return Rows(pixels.train, pixels.test, pixels.of)
    if source == "features":
        computed = features.read(record)
        if computed is None:
            why = features.why_not(record) or "The features of this run have not been computed."
            raise ConfigError(why, "Compute them, or choose another source of the map.")
        if len(computed.train) != len(dataset.train_labels) or len(computed.test) != len(dataset.test_labels):
            raise IntegrityError(
                f"The features of run {record.run_id} do not fit the data set {dataset.name}.", features.REMEDY
            )
        return Rows(computed.train, computed.test, computed.of)
    targets = len(record.score_sets.targets())
    if targets < TARGETS:
        raise ConfigError(
            f"A map by influence needs scores of {TARGETS} targets; this run has {targets}.",
            "Explain further targets, or choose another source of the map.",
        )
    words = f"effects on the run's {targets:,} targets, by direction: images near each other act alike"
    sets = record.score_sets
    rows_NK = _directions.get(
        (digest_of(record, dataset, source),), lambda: directions(np.stack(sets.rows(sets.targets())))
    )
    return Rows(rows_NK, None, words)


def digest_of(record: Manifest, dataset: Dataset, source: str) -> str:
    """Of what a map is made of: another one once a target is added, or features are computed anew."""
    if source == "pixels":
        return dataset.fingerprint
    names = (features.TRAIN, features.TEST) if source == "features" else SCORES
    made_of = sorted((name, sha) for name, sha in record.files.items() if name.startswith(names))
    return hashlib.sha256(repr(made_of).encode()).hexdigest()


def directions(scores_KN: np.ndarray) -> np.ndarray:
    """float32 [N, K] of scores [K, N]: each row divided by its root mean square, each column then by its length. An
    image without any effect stays at zero."""
    by_target = np.sqrt(np.mean(np.square(scores_KN, dtype=np.float64), axis=1, keepdims=True))
    scaled = np.divide(scores_KN, by_target, out=np.zeros(scores_KN.shape, np.float64), where=by_target > 0)
    lengths = np.linalg.norm(scaled, axis=0, keepdims=True)
    return np.divide(scaled, lengths, out=scaled, where=lengths > 0).T.astype(np.float32)


# -- all images


def whole(record: Manifest, dataset: Dataset, source: str, method: str) -> Map | None:
    """All images on one plane; None of a map that a job has to draw first (`umap`). Raises as `rows_of` does, and
    `ConfigError` where there is nothing to draw."""
    digest = digest_of(record, dataset, source)
    if method == "umap":
        return read(record, f"umap-{source}", digest)
    if source == "features" and (drawn := read(record, "pca-features", digest)) is not None:
        return drawn
    return _drawn.get((source, digest), lambda: draw(rows_of(record, dataset, source)))


def draw(rows: Rows) -> Map:
    """On the plane of the training images' principal components."""
    plane = projection.principal(rows.train)
    test = None if rows.test is None else plane.project(rows.test)
    return Map(plane.project(rows.train), test, rows.of, "pca", plane.explained[:2])


# -- the neighbours of a target


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """The training images nearest to a target, `images` int64 [k], the nearest first, with their `distance` float32 [k]
    in the source's numbers; `map` has them in this order, and the target itself at `target` [2]."""

    images: np.ndarray
    distance: np.ndarray
    map: Map
    target: np.ndarray


def neighbourhood(
    record: Manifest, dataset: Dataset, source: str, target: Target, count: int = NEAREST
) -> Neighbourhood:
    """The principal components of the target and its neighbours alone. Of a target of several images, their mean.
    Raises `ConfigError` where the target has no place in what the source knows."""
    key = source, digest_of(record, dataset, source), str(target), count
    return _near.get(key, lambda: _around(record, dataset, source, target, count))


def _around(record: Manifest, dataset: Dataset, source: str, target: Target, count: int) -> Neighbourhood:
    rows = rows_of(record, dataset, source)
    place = place_of(rows, record, dataset, target)
    own = target.index if isinstance(target, TrainImage) else -1
    images, distance = nearest(rows.train, place, min(count, len(rows.train)), own)
    near = np.concatenate([rows.train[images], place[None]])
    plane = projection.principal(near)
    at = plane.project(near)
    return Neighbourhood(images, distance, Map(at[:-1], None, rows.of, "pca", plane.explained), at[-1])


def nearest_to(record: Manifest, dataset: Dataset, source: str, target: Target, count: int) -> np.ndarray:
    """int64, the training images nearest to a target in all numbers of the source, the nearest first; without the
    image itself where the target is one."""
    rows = rows_of(record, dataset, source)
    own = target.index if isinstance(target, TrainImage) else -1
    return nearest(rows.train, place_of(rows, record, dataset, target), min(count, len(rows.train)), own)[0]


def target_on(drawn: Map, record: Manifest, dataset: Dataset, target: Target) -> np.ndarray | None:
    """Where a target lies on a map of all images, float32 [2]: of one of several images, the mean of their places. None
    where it has none."""
    if isinstance(target, UploadedImage):
        return None
    members = target.resolve(dataset, record.test_logits)
    table = {TRAIN: drawn.train, TEST: drawn.test}[members.split]
    return None if table is None or not len(members) else table[members.indices].mean(0)


def place_of(rows: Rows, record: Manifest, dataset: Dataset, target: Target) -> np.ndarray:
    """What the source says of a target, float32 [D]: of one of several images, their mean."""
    if isinstance(target, UploadedImage):
        raise ConfigError(
            "An uploaded image is in no split, and has no place on a map.", "Choose a target of the data set."
        )
    members = target.resolve(dataset, record.test_logits)
    table = {TRAIN: rows.train, TEST: rows.test}[members.split]
    if table is None:
        raise ConfigError(
            "A test image has no place among images by influence: it is what they act on.",
            "Choose another source of the map, or a training image as the target.",
        )
    return np.asarray(table[members.indices], np.float64).mean(0).astype(np.float32)


def nearest(rows: np.ndarray, place: np.ndarray, count: int, own: int = -1) -> tuple[np.ndarray, np.ndarray]:
    """The `count` rows of [N, D] nearest to a place [D], the nearest first, and how far they are: int64 and float32
    [count]. `own` is left away: an image is no neighbour of itself."""
    squares, at_once = np.empty(len(rows)), max(1, BLOCK // max(1, rows.shape[1]))
    for start in range(0, len(rows), at_once):
        away = np.asarray(rows[start : start + at_once], np.float64) - place
        squares[start : start + at_once] = np.einsum("nd,nd->n", away, away)
    if own >= 0:
        squares[own] = np.inf
        count = min(count, len(rows) - 1)
    first = np.argpartition(squares, count - 1)[:count] if count else np.empty(0, np.int64)
    first = first[np.lexsort((first, squares[first]))]
    return first, np.sqrt(squares[first]).astype(np.float32)


# -- in the run's folder


def write(folder: Path, name: str, save: Save, drawn: Map, digest: str) -> dict[str, str]:
    """Writes a map into a run's folder, as made of what has this digest, and returns the SHA-256 of its files by their
    path inside the run."""
    train, test, about = _paths(name)
    places = {train: drawn.train} | ({} if drawn.test is None else {test: drawn.test})
    said = {"of": drawn.of, "method": drawn.method, "made_of": digest}
    said |= {} if drawn.explained is None else {"explained": list(drawn.explained)}
    written = {
        path: save(at.nbytes, lambda path=path, at=at: files.write_npy(folder / path, at))
        for path, at in places.items()
    }
    return {**written, about: save(1 << 12, lambda: files.write_json(folder / about, said))}


def read(record: Manifest, name: str, digest: str) -> Map | None:
    """What `write` wrote; None where it is not there, or was made of something else than the run has now."""
    train, test, about = _paths(name)
    if train not in record.files or about not in record.files:
        return None
    said = files.read_json(record.folder / about, REMEDY, record.files[about])
    try:
        fields.check(said, SIDECAR)
    except (TypeError, ValueError, KeyError) as error:
        raise IntegrityError(f"{record.folder / about} does not describe a map ({error}).", REMEDY) from None
    if said["made_of"] != digest:
        return None
    at = [
        files.read_npy(record.folder / each, record.files[each], REMEDY)
        for each in (train, test)
        if each in record.files
    ]
    if any(each.dtype != np.float32 or each.ndim != 2 or each.shape[1] != 2 for each in at):
        raise IntegrityError(f"The map {name} of run {record.run_id} is damaged.", REMEDY)
    explained = tuple(said["explained"]) if "explained" in said else None
    return Map(at[0], at[1] if at[1:] else None, said["of"], said["method"], explained)


def _paths(name: str) -> tuple[str, str, str]:
    return f"{FOLDER}/{name}-train.npy", f"{FOLDER}/{name}-test.npy", f"{FOLDER}/{name}.json"
