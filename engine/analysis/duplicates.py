"""Images that are the same, or nearly: as a run keeps them, by group and by test image. No torch.

    duplicates/<by>.json    groups of images, and of test images their twin in training, as one way of comparing found
                            them (`engine.jobs.duplicates`); a way that is taken again takes its file's place

An image has one number: i of training image i, N + j of test image j. In each group the image to keep comes first, a
training image where there is one, and every other is within the distance asked for of that one; so two of a group may
be twice as far from each other, and no chain leads from one image to quite another.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine import files
from engine.analysis.wording import count
from engine.datasets.base import Dataset
from engine.errors import ConfigError, IntegrityError
from engine.runs import fields
from engine.runs.manifest import Manifest

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "duplicates"

EXACT, HASH, PIXELS, FEATURES = "exact", "hash", "pixels", "features"

WAYS = (EXACT, HASH, PIXELS, FEATURES)  # the surer one first

REMEDY = "Look for duplicates again."

MOST_BITS = 16  # of 64 in which hashes may differ: half-way to images that have nothing to do with each other

FARTHEST = 0.5  # 1 − cosine that may be asked for

SHAPE = {
    "by": fields.text,
    "at_most": fields.number,
    "turned": fields.flag,
    "of": fields.text,
    "images": [fields.whole],
    "distinct": fields.whole,
    "pairs": fields.whole,
    "left_over": fields.whole,
    "without_hash": fields.whole,
    "seconds": fields.number,
    "groups": {"sizes": [fields.whole], "images": [fields.whole], "distances": [fields.number]},
    "twins": {"test": [fields.whole], "train": [fields.whole], "distances": [fields.number]},
}


def path_of(by: str) -> str:
    """Inside the run."""
    return f"{FOLDER}/{by}.json"


def distance_in_words(by: str, distance: float) -> str:
    """«the same pixels», «3 of 64 bits», «cosine 0.987»."""
    if by == EXACT:
        return "the same pixels"
    return f"{distance:.0f} of 64 bits" if by == HASH else f"cosine {1 - distance:.3f}"


def limit_in_words(by: str, at_most: float) -> str:
    """What images must be to be alike: «at most 4 of 64 bits apart», «a cosine of 0.980 or more»."""
    if by == EXACT:
        return "the same in every pixel"
    return f"at most {at_most:.0f} of 64 bits apart" if by == HASH else f"a cosine of {1 - at_most:.3f} or more"


def check_distance(by: str, at_most: float) -> float:
    """The distance as it is recorded. Raises `ConfigError` for a way or a distance that there is not."""
    if by not in WAYS:
        raise ConfigError(f"Images are not compared by «{by}».", f"Choose one of {', '.join(WAYS)}.")
    high = {EXACT: 0, HASH: MOST_BITS}.get(by, FARTHEST)
    right = type(at_most) in (int, float) and 0 <= at_most <= high and (by != HASH or at_most == int(at_most))
    if not right:
        what = {EXACT: "0", HASH: f"a whole number of bits from 0 to {high}"}.get(by, f"1 − cosine, from 0 to {high}")
        raise ConfigError(
            f"The distance by {by} must be {what}, not {at_most!r}.",
            "Leave it away for the one that was measured to be sensible.",
            {"at_most": f"must be {what}"},
        )
    return float(at_most)


# -- what was found


@dataclass(frozen=True, eq=False)
class Duplicates:
    """What one way of comparing found.

    `starts` int64 [G] of the groups in `images` int64 [R], their numbers, and `distances` float64 [R] to the first of
    each. `twin_tests` int64 [T], ascending, are the test images that have a training image within the distance, `twins`
    int64 [T] the nearest of those and `twin_distances` float64 [T].
    """

    by: str
    at_most: float
    turned: bool  # whether images turned by a quarter, or mirrored, count as alike
    of: str  # what was compared, in words
    n_train: int
    n_test: int
    distinct: int  # images that are not the same as an earlier one
    pairs: int  # of distinct images within the distance
    left_over: int  # distinct images that are near one of another group, and in none themselves
    without_hash: int  # images without structure, of which there is no hash
    seconds: float
    starts: np.ndarray
    images: np.ndarray
    distances: np.ndarray
    twin_tests: np.ndarray
    twins: np.ndarray
    twin_distances: np.ndarray
    sha256: str = ""  # of its file

    @cached_property
    def sizes(self) -> np.ndarray:
        """int64 [G]."""
        return np.diff(np.append(self.starts, len(self.images)))

    @cached_property
    def group_of(self) -> np.ndarray:
        """int64 [R]: the group of each entry of `images`."""
        return np.repeat(np.arange(len(self.starts)), self.sizes)

    def members(self, group: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and distances of one group, the one to keep first."""
        of = slice(self.starts[group], self.starts[group] + self.sizes[group])
        return self.images[of], self.distances[of]

    def twin_of(self, test: int) -> tuple[int, float] | None:
        """The training image that a test image is nearest to, and how far that is; None where none is near."""
        at = int(np.searchsorted(self.twin_tests, test))
        if at == len(self.twin_tests) or self.twin_tests[at] != test:
            return None
        return int(self.twins[at]), float(self.twin_distances[at])

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it."""
        places = 6  # a distance of cosines has no more that mean anything
        return {
            **{name: getattr(self, name) for name in ("by", "at_most", "turned", "of", "distinct", "pairs")},
            "left_over": self.left_over,
            "without_hash": self.without_hash,
            "images": [self.n_train, self.n_test],
            "seconds": round(self.seconds, 3),
            "groups": {
                "sizes": self.sizes.tolist(),
                "images": self.images.tolist(),
                "distances": self.distances.round(places).tolist(),
            },
            "twins": {
                "test": self.twin_tests.tolist(),
                "train": self.twins.tolist(),
                "distances": self.twin_distances.round(places).tolist(),
            },
        }

    @classmethod
    def from_json(cls, value: Any, path: Path, sha256: str = "") -> "Duplicates":
        """Raises `IntegrityError` for what describes no duplicates."""
        try:
            fields.check(value, SHAPE)
            return _checked(value, sha256)
        except (TypeError, ValueError, KeyError, ConfigError) as error:
            raise IntegrityError(f"{path} does not describe duplicates ({error}).", REMEDY) from None


def _checked(value: dict[str, Any], sha256: str) -> Duplicates:
    groups, twins = value["groups"], value["twins"]
    n_train, n_test = value["images"]
    sizes = np.array(groups["sizes"], np.int64)
    found = Duplicates(
        by=value["by"],
        at_most=check_distance(value["by"], value["at_most"]),
        turned=value["turned"],
        of=value["of"],
        n_train=n_train,
        n_test=n_test,
        distinct=value["distinct"],
        pairs=value["pairs"],
        left_over=value["left_over"],
        without_hash=value["without_hash"],
        seconds=value["seconds"],
        starts=np.cumsum(sizes) - sizes,
        images=np.array(groups["images"], np.int64),
        distances=np.array(groups["distances"], np.float64),
        twin_tests=np.array(twins["test"], np.int64),
        twins=np.array(twins["train"], np.int64),
        twin_distances=np.array(twins["distances"], np.float64),
        sha256=sha256,
    )
    if sizes.sum() != len(found.images) or (sizes < 2).any() or len(np.unique(found.images)) != len(found.images):
        raise ValueError("its groups do not fit its images")
    if len(found.distances) != len(found.images) or (found.images >= n_train + n_test).any():
        raise ValueError("its groups have other images than there are")
    if not len(found.twin_tests) == len(found.twins) == len(found.twin_distances):
        raise ValueError("its twins are of several lengths")
    if (np.diff(found.twin_tests) <= 0).any() or (found.twin_tests >= n_test).any() or (found.twins >= n_train).any():
        raise ValueError("its twins are of other images than there are")
    return found


def in_words(found: Duplicates) -> list[str]:
    """What was found, in plain sentences."""
    groups, training = len(found.starts), found.n_train
    within = limit_in_words(found.by, found.at_most)
    spare = len(all_but_one(found, range(groups)))
    said = [
        f"Compared by {found.of}, {within}: {count(groups, 'groups')} of {count(len(found.images), 'images')}.",
        f"Of {training:,} training images {spare:,} are more than the one that each group needs.",
        f"{len(found.twins):,} of {found.n_test:,} test images have a twin in training.",
    ]
    if found.left_over:
        are, in_none = ("is", "is in none") if found.left_over == 1 else ("are", "are in none")
        said.append(
            f"{count(found.left_over, 'images')} {are} near one that stands in another's group, and {in_none}: groups "
            "are no chains."
        )
    if found.without_hash:
        are = "is of one colour alone, and has" if found.without_hash == 1 else "are of one colour alone, and have"
        said.append(f"{count(found.without_hash, 'images')} {are} no hash.")
    return said


def ways(record: Manifest) -> list[str]:
    """By which ways the run's images were compared, the surer one first."""
    return [by for by in WAYS if path_of(by) in record.files]


def known(record: Manifest, by: str) -> Duplicates | None:
    """What this way found; None where nobody looked. Raises `IntegrityError` where its file is damaged."""
    relative = path_of(by)
    if relative not in record.files:
        return None
    path, sha256 = record.folder / relative, record.files[relative]
    return _read(path, sha256, files.sha256_of(path, REMEDY))


@lru_cache(maxsize=8)
def _read(path: Path, recorded: str, sha256: str) -> Duplicates:
    """By content: a page asks at every click."""
    value = files.read_json(path, REMEDY, recorded, limit=files.MOST_BYTES_OF_ARRAYS)
    return Duplicates.from_json(value, path, recorded)


@dataclass(frozen=True)
class Twin:
    """A training image within the distance of a test image: how it was found, and how far it is."""

    train: int
    by: str
    distance: float

    @property
    def in_words(self) -> str:
        return distance_in_words(self.by, self.distance)


def twin_of(record: Manifest, test: int) -> Twin | None:
    """Of a test image, by the surest way that found one; None where none did, or where nobody looked."""
    for by in ways(record):
        found = known(record, by)
        twin = None if found is None else found.twin_of(test)
        if twin is not None:
            return Twin(twin[0], by, twin[1])
    return None


# -- groups as rows


def table(found: Duplicates, dataset: Dataset, scores_N: np.ndarray | None = None) -> "pd.DataFrame":
    """A row a group, [G]: `group`, its number; `images`, and of them `training` and `test`; `labels`, how many
    different ones; `farthest`, the largest distance to the first; with scores, `influence`, Σ τ of its training images.
    """
    import pandas as pd

    groups, of = len(found.starts), found.group_of
    training = found.images < found.n_train
    labels = labels_of(found, dataset)
    different = np.unique(np.stack([of, labels]), axis=1)[0] if len(of) else of
    columns = {
        "group": np.arange(groups),
        "images": found.sizes,
        "training": np.bincount(of[training], minlength=groups),
        "test": np.bincount(of[~training], minlength=groups),
        "labels": np.bincount(different, minlength=groups),
        "farthest": np.maximum.reduceat(found.distances, found.starts) if groups else np.zeros(0),
    }
    if scores_N is not None:
        weights = np.asarray(scores_N[found.images[training]], np.float64)
        columns["influence"] = np.bincount(of[training], weights, minlength=groups)
    return pd.DataFrame(columns)


def labels_of(found: Duplicates, dataset: Dataset, images: np.ndarray | None = None) -> np.ndarray:
    """The classes of images by their numbers, int64; of all that are in groups where none are named."""
    images = found.images if images is None else images
    return np.concatenate([dataset.train_labels, dataset.test_labels])[images]


def some_of(found: Duplicates, dataset: Dataset, group: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """As `Duplicates.members`, the `most` that are nearest to the first; the nearest of each label is among them, where
    there is room, so that a group whose labels differ is seen to."""
    images, distances = found.members(group)
    _, of_labels = np.unique(labels_of(found, dataset, images), return_index=True)
    places = np.sort(of_labels)[:most]
    others = np.setdiff1d(np.arange(len(images)), places)[: most - len(places)]
    chosen = np.sort(np.concatenate([places, others]))
    return images[chosen], distances[chosen]


def classes_in_words(found: Duplicates, dataset: Dataset, images: np.ndarray) -> list[tuple[str, int]]:
    """Names of classes and how many of the images have it, the most frequent first."""
    labels, counts = np.unique(labels_of(found, dataset, images), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [(dataset.classes[labels[i]], int(counts[i])) for i in order.tolist()]


ORDERS = {
    "size": "Most images",
    "nearest": "Nearest",
    "farthest": "Farthest apart",
    "harmful": "Most harmful",
    "helpful": "Most helpful",
}
BY_INFLUENCE = ("harmful", "helpful")

WHERE = {
    "all": "All groups",
    "training": "Within training",
    "test": "Within test",
    "across": "In training and test",
}


def filtered(rows: "pd.DataFrame", where: str, labels_differ: bool) -> "pd.DataFrame":
    """The groups with two or more images in a split, or with images in both; of them those whose labels differ."""
    kept = {
        "all": rows["images"] > 1,
        "training": rows["training"] > 1,
        "test": rows["test"] > 1,
        "across": (rows["training"] > 0) & (rows["test"] > 0),
    }[where]
    return rows.loc[kept & (rows["labels"] > 1)] if labels_differ else rows.loc[kept]


def in_order(rows: "pd.DataFrame", order: str, harmful_sign: int = 1) -> "pd.DataFrame":
    """By one of `ORDERS`; by influence where the rows have it. `harmful_sign` of the target function."""
    if order in BY_INFLUENCE:
        harm = harmful_sign * rows["influence"].to_numpy()
        keys = -harm if order == "harmful" else harm
    else:
        keys = {"size": -rows["images"], "nearest": rows["farthest"], "farthest": -rows["farthest"]}[order].to_numpy()
    return rows.iloc[np.lexsort((rows["group"].to_numpy(), keys))]


# -- which to leave out


def all_but_one(found: Duplicates, groups: Collection[int]) -> np.ndarray:
    """The training images of these groups, without the first of each: int64 [M], ascending."""
    chosen = np.isin(found.group_of, list(groups))
    chosen[found.starts] = False
    images = found.images[chosen]
    return np.sort(images[images < found.n_train])


def in_test_too(found: Duplicates, groups: Collection[int]) -> np.ndarray:
    """The training images of those of these groups that have test images, int64 [M], ascending: without them nothing
    that is tested on was trained on."""
    test = np.unique(found.group_of[found.images >= found.n_train])
    chosen = np.isin(found.group_of, np.intersect1d(test, list(groups)))
    images = found.images[chosen]
    return np.sort(images[images < found.n_train])


def listed(
    found: Duplicates, dataset: Dataset, scores_N: np.ndarray | None = None, groups: Sequence[int] | None = None
) -> "pd.DataFrame":
    """A row an image, group by group: group, keep, split, index, file where the data set has files, label, distance to
    the first, and with scores the influence of a training image. Of these groups in their order, or all."""
    import pandas as pd

    groups = list(range(len(found.starts))) if groups is None else list(groups)
    entries = np.concatenate(
        [np.arange(found.starts[g], found.starts[g] + found.sizes[g]) for g in groups] or [np.zeros(0, np.int64)]
    )
    images, training = found.images[entries], found.images[entries] < found.n_train
    index = np.where(training, images, images - found.n_train)
    columns: dict[str, Any] = {
        "group": found.group_of[entries],
        "keep": np.isin(entries, found.starts),
        "split": np.where(training, "train", "test"),
        "index": index,
    }
    if dataset.train_names or dataset.test_names:
        columns["file"] = [dataset.file_name("train" if t else "test", i) for t, i in zip(training, index.tolist())]
    columns["label"] = np.array(dataset.classes)[labels_of(found, dataset, images)]
    columns["distance"] = found.distances[entries]
    if scores_N is not None:
        columns["influence"] = [float(scores_N[i]) if t else None for t, i in zip(training, index.tolist())]
    return pd.DataFrame(columns)
