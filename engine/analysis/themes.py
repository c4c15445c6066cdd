"""Themes: a target's most helpful and most harmful training images, grouped into what they have in common. No torch.

The images of one side, the most influential first, up to `TOP` of them, are points of two blocks:

    features     [M, D]   what the model sees in an image (`engine.analysis.features`), or its pixels
    influence    [M, K]   what the image did to each of the run's K targets, where there are two or more

Each row of a block has length 1, so that what counts is which way an image points, and not how far: the columns of
`influence` were first divided by their root mean square, for nats and logits do not compare. Each block is centred and
divided by the root of its total variance, so that both have the same say in the distance of two images. Groups are
Ward's, and as many as the mean silhouette says, unless a person does (`engine.analysis.clusters`).

Images are taken in the order of their numbers, whatever order they come in, and nothing is random: the same scores and
features give the same themes.

A theme's effect is the sum of its images' scores: leaving it out changes the target function by about minus that, to
first order. tools/themes.py holds that against retraining, and docs/themes.md has its table. A theme says what images
have in common to the model, and no more: that it has a meaning to people is for people to say.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from engine import files
from engine.analysis import clusters, lists
from engine.analysis import features as feature_files
from engine.analysis.features import Features
from engine.analysis.logits import judged, log_probabilities
from engine.analysis.ranking import rank
from engine.datasets.base import Dataset
from engine.errors import ConfigError
from engine.runs.manifest import Manifest
from engine.runs.scores import TargetRef
from engine.targets import target_function

if TYPE_CHECKING:
    import pandas as pd

SIDES = "harmful", "helpful"

TOP = 200  # images of a side that are grouped

MOST_IMAGES = 1000  # that can be: distances of all pairs, and a second of work

MOST_THEMES = 20  # that a person can ask for; of its own accord a side has `AUTOMATIC` at most

AUTOMATIC = 8

TRAIN_LOGITS = "model/train_logits.npy"

EQUAL = 1e-5  # of rows of length 1: they differ by no more than what float32 rounds away, which is no difference

PIECE = 1 << 22  # floats of features that are looked at together


@dataclass(frozen=True)
class Theme:
    """Some images of one side of a target, `images` int64 [S], the most central first.

    `effect` is Σ τ, in the unit of the target function; `share` of Σ τ over all training images on that side, from 0 to
    1. `labels` are the classes that the images are labelled as, with their numbers, the most frequent first.
    `predicted` is the class that the trained model gives to most of them, `looks_like` the class whose mean features
    are the nearest to most of them, each with the number of these images; None where no class has more than half, or
    nobody knows. `doubted` are the images whose label looks wrong, and the class that each looks like; None where the
    run has no logits of training images.
    """

    side: str
    images: np.ndarray
    effect: float
    share: float
    labels: tuple[tuple[int, int], ...]
    predicted: tuple[int, int] | None = None
    looks_like: tuple[int, int] | None = None
    doubted: dict[int, int] | None = None

    @property
    def key(self) -> str:
        """What it is told from other themes by, for names and links: of its images alone, in any order."""
        return files.json_digest(sorted(self.images.tolist()))[:16]


@dataclass(frozen=True)
class Side:
    """The themes of one side, the strongest first; `grouped` images are in them, of `of` on that side, and make
    `share` of its sum. `silhouette` is their mean one, None of a single theme."""

    themes: tuple[Theme, ...]
    grouped: int
    of: int
    share: float
    silhouette: float | None


@dataclass(frozen=True)
class Themes:
    """Both sides of one target, by their names. `by`: what the images were grouped by, in words; where it is empty,
    they do not differ in anything that is known of them."""

    target: TargetRef
    by: tuple[str, ...]
    sides: dict[str, Side]

    def all(self) -> list[Theme]:
        """Of both sides, the strongest first."""
        return sorted((t for s in self.sides.values() for t in s.themes), key=lambda theme: -abs(theme.effect))

    def numbered(self, name: str) -> Theme:
        """The theme called such as `harmful:1`; `ConfigError` where there is none."""
        side, _, number = name.partition(":")
        themes = self.sides[side].themes if side in self.sides else ()
        if not number.isascii() or not number.isdecimal() or not 1 <= int(number[:9]) <= len(themes):
            there = ", ".join(f"{side}:1 to {side}:{len(s.themes)}" for side, s in self.sides.items() if s.themes)
            raise ConfigError(f"There is no theme «{name}» of {self.target.key}.", f"There are {there or 'none'}.")
        return themes[int(number) - 1]


def find(
    record: Manifest,
    dataset: Dataset,
    target: TargetRef,
    known: Features | None,
    top: int = TOP,
    count: int | None = None,
) -> Themes:
    """The themes of a target, `count` a side, or as many as fit, of `top` images a side, or as many as there are.
    `known` are the run's features; where nobody computed them, pixels take their place. Raises `ConfigError` for
    numbers out of range, and for features that are not finite."""
    _check(top, count)
    scores_N = record.score_sets.row(target)
    ranking = rank(scores_N, target.function, top)
    harm_N = target_function(target.function).harmful_sign * np.asarray(scores_N, np.float64)
    doubts, looks = _Doubts.of(record, dataset), _Looks.of(known, dataset)
    sides, by = {}, ()
    for side, of_side_N in (("harmful", harm_N), ("helpful", -harm_N)):
        images = np.sort(getattr(ranking, side))
        points_MD, made_of = _points(record, dataset, images, known)
        groups, total = clusters.grouped(points_MD, count, AUTOMATIC), float(of_side_N[of_side_N > 0].sum())
        themes = []
        for group in np.unique(groups.of_point).tolist():
            members = np.flatnonzero(groups.of_point == group)
            ordered = images[members[_central(points_MD[members])]]
            effect, labels = -lists.without(scores_N, ordered), Counter(dataset.train_labels[ordered].tolist())
            theme = Theme(side, ordered, effect, abs(effect) / total, _by_number(labels))
            themes.append(looks.tell(doubts.tell(theme)))
        themes.sort(key=lambda theme: (-abs(theme.effect), int(theme.images.min())))
        share, of = sum(theme.share for theme in themes), int((of_side_N > 0).sum())
        sides[side] = Side(tuple(themes), len(images), of, share, groups.silhouette)
        by = by or made_of
    return Themes(target, by, sides)


def _check(top: int, count: int | None) -> None:
    for value, low, high, what in ((top, 2, MOST_IMAGES, "images a side"), (count, 1, MOST_THEMES, "themes a side")):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high):
            raise ConfigError(
                f"The number of {what} must be a whole number from {low} to {high:,}, not {value!r}.",
                f"Choose {TOP} images, and leave the number of themes to the images.",
            )


def _by_number(labels: Counter) -> tuple[tuple[int, int], ...]:
    return tuple(sorted(labels.items(), key=lambda each: (-each[1], each[0])))


# -- points


def _points(
    record: Manifest, dataset: Dataset, images: np.ndarray, known: Features | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """float64 [M, D + K] of images in the order of their numbers, and what they are made of: blocks in which the
    images differ."""
    if known is None:
        blocks = {feature_files.pixels_in_words(): scaled(feature_files.some_pixels(dataset, images))}
    else:
        blocks = {known.of: scaled(known.train[images])}
    targets = record.score_sets.targets()
    if len(targets) > 1 and len(images):
        influence_MK = np.stack([row_N[images] for row_N in record.score_sets.rows(targets)], axis=1)
        sizes_K = np.sqrt(np.square(influence_MK, dtype=np.float64).mean(0))
        influence_MK = influence_MK / np.where(sizes_K > 0, sizes_K, 1)
        blocks[f"what they did to the run's {len(targets):,} targets"] = scaled(influence_MK)
    there = {name: block for name, block in blocks.items() if block is not None}
    points_MD = np.concatenate(list(there.values()), axis=1) if there else np.zeros((len(images), 1))
    return points_MD, tuple(there)


def scaled(block_MD: np.ndarray) -> np.ndarray | None:
    """Rows of length 1, centred, with a total variance of 1; None where the images do not differ in it. Rows of zeros
    stay zeros before they are centred: they point nowhere."""
    block_MD = np.asarray(block_MD, np.float64)
    if not np.isfinite(block_MD).all():
        raise ConfigError(
            "Some features or scores of these images are not finite, so that they have no distances.",
            "Compute the features, or score the targets, again.",
        )
    lengths_M = np.linalg.norm(block_MD, axis=1, keepdims=True)
    block_MD = block_MD / np.where(lengths_M > 0, lengths_M, 1)
    if not len(block_MD):
        return None
    block_MD = block_MD - block_MD.mean(0)
    size = np.sqrt(np.square(block_MD).sum(1).mean())
    return block_MD / size if size > EQUAL else None


def _central(points_SD: np.ndarray) -> np.ndarray:
    """The order of a group's points by their distance from its mean, the nearest first."""
    return np.argsort(np.square(points_SD - points_SD.mean(0)).sum(1), kind="stable")


# -- what is known of the images


@dataclass(frozen=True)
class _Doubts:
    """Which labels look wrong, by confident learning (Northcutt, Jiang and Chuang, arXiv 1911.00068): the model is as
    sure of another class as it is, on average, of the images that have that label. Its probabilities are those of
    images that it was trained on, so that it doubts fewer labels than a model that has not seen them would."""

    logits_NC: np.ndarray | None
    least_C: np.ndarray  # mean probability of the label given, of each class; ∞ of a class without images
    labels_N: np.ndarray

    @classmethod
    def of(cls, record: Manifest, dataset: Dataset) -> "_Doubts":
        labels_N, classes = dataset.train_labels, len(dataset.classes)
        if TRAIN_LOGITS not in record.files:
            return cls(None, np.full(classes, np.inf), labels_N)
        logits_NC = record.train_logits()
        sums_C = np.bincount(labels_N, np.exp(judged(logits_NC, labels_N).given), classes)
        counts_C = np.bincount(labels_N, minlength=classes)
        least_C = np.where(counts_C > 0, sums_C / np.maximum(counts_C, 1), np.inf)
        return cls(logits_NC, least_C, labels_N)

    def tell(self, theme: Theme) -> Theme:
        if self.logits_NC is None:
            return theme
        p_SC = np.exp(log_probabilities(self.logits_NC[theme.images]))
        sure_SC = np.where(p_SC >= self.least_C, p_SC, 0.0)
        likely_S, given_S = sure_SC.argmax(1), self.labels_N[theme.images]
        wrong_S = (sure_SC.max(1) > 0) & (likely_S != given_S)
        doubted = {int(i): int(c) for i, c in zip(theme.images[wrong_S], likely_S[wrong_S], strict=True)}
        return replace(theme, predicted=_most(p_SC.argmax(1)), doubted=doubted)


@dataclass(frozen=True)
class _Looks:
    """The mean features of each class, float64 [C, D], NaN of a class without images. Both None where the model's
    features are not known: a class has no mean of pixels that looks like it."""

    features: Features | None = None
    means_CD: np.ndarray | None = None

    @classmethod
    def of(cls, features: Features | None, dataset: Dataset) -> "_Looks":
        if features is None:
            return cls()
        labels_N, classes = dataset.train_labels, len(dataset.classes)
        sums_CD, rows = np.zeros((classes, features.train.shape[1])), max(1, PIECE // features.train.shape[1])
        for start in range(0, len(labels_N), rows):
            piece, labels = np.asarray(features.train[start : start + rows], np.float64), labels_N[start : start + rows]
            for label in np.unique(labels):
                sums_CD[label] += piece[labels == label].sum(0)
        counts_C = np.bincount(labels_N, minlength=classes)
        return cls(features, np.where(counts_C[:, None] > 0, sums_CD / np.maximum(counts_C, 1)[:, None], np.nan))

    def tell(self, theme: Theme) -> Theme:
        if self.features is None or self.means_CD is None:
            return theme
        distances_SC = np.stack(
            [np.square(np.asarray(row, np.float64) - self.means_CD).sum(1) for row in self.features.train[theme.images]]
        )
        return replace(theme, looks_like=_most(np.where(np.isnan(distances_SC), np.inf, distances_SC).argmin(1)))


def _most(labels_S: np.ndarray) -> tuple[int, int] | None:
    """The label that more than half of them are, and how many; None where there is none."""
    (label, count), *_ = _by_number(Counter(labels_S.tolist()))
    return (label, count) if 2 * count > len(labels_S) else None


# -- in words


def name_of(theme: Theme, classes: Sequence[str]) -> str:
    """What it is, in facts: «21 × Shirt that look like Coat: 19 predicted Coat». Holds names of classes, which are
    plain text and no Markdown."""
    (first, count), *others = theme.labels
    images = len(theme.images)
    text = f"{count:,} × {classes[first]}"
    if others:
        second, number = others[0]
        rest = sum(n for _, n in others[1:])
        text += f", {number:,} × {classes[second]}" + (f" and {rest:,} other{'s' * (rest > 1)}" if rest else "")
    if theme.looks_like is not None and theme.looks_like[0] != first:
        label, number = theme.looks_like
        text += f" that {'mostly ' * (number < images)}look{'s' * (images == 1)} like {classes[label]}"
    if theme.predicted is None:
        return text
    label, number = theme.predicted
    as_what = "so" if label == first and not others else classes[label]
    return f"{text}: {f'{number:,} ' * (number < images)}predicted {as_what}"


def doubts_in_words(theme: Theme, dataset: Dataset) -> str:
    """How many labels look wrong in it, and as what; and how many are known to be."""
    if theme.doubted is None:
        return "Labels are not judged: this run has no predictions of its training images."
    said = "No label looks wrong"
    if theme.doubted:
        likely = _by_number(Counter(theme.doubted.values()))
        number = len(theme.doubted)
        said = f"{number:,} label{'s' * (number > 1)} look{'s' * (number == 1)} wrong ("
        said += ", ".join(f"{n:,} like {dataset.classes[label]}" for label, n in likely[:3])
        said += ", …)" if likely[3:] else ")"
    if dataset.true_train_labels is not None:
        wrong = int((dataset.true_train_labels[theme.images] != dataset.train_labels[theme.images]).sum())
        said += f"; {wrong:,} {'is' if wrong == 1 else 'are'} known to be wrong"
    return f"{said}."


def grouped_by(themes: Themes) -> str:
    """«Grouped by the penultimate features of the model, and by what they did to the run's 9 targets.»"""
    if not themes.by:
        return "Not grouped: these images do not differ in anything that the run knows of them."
    return f"Grouped by {', and by '.join(themes.by)}."


def lines(themes: Themes, dataset: Dataset) -> list[str]:
    """What the command line prints: each theme with its number, its sum, what it is, and its most central images."""
    unit = target_function(themes.target.function).short_unit
    said = [f"{themes.target.title(dataset)}. {grouped_by(themes)}"]
    for name, side in themes.sides.items():
        fit = "" if side.silhouette is None else f", mean silhouette {side.silhouette:.2f}"
        said.append(f"{name}: {side.grouped:,} of {side.of:,} images, {side.share:.1%} of all that is {name}{fit}")
        for number, theme in enumerate(side.themes, 1):
            first = ", ".join(f"train:{image}" for image in theme.images[:3].tolist())
            said.append(
                f"  {f'{name}:{number}':12}{theme.effect:>+10.4f} {unit} {theme.share:>7.1%}  "
                f"{name_of(theme, dataset.classes)} ({first}{', …' if len(theme.images) > 3 else ''})"
            )
            said.append(f"{'':14}{doubts_in_words(theme, dataset)}")
    return said


def table(themes: Themes, dataset: Dataset, record: Manifest) -> "pd.DataFrame":
    """One row an image: those of a theme from its centre outwards, the strongest theme of each side first."""
    import pandas as pd

    scores_N, names = record.score_sets.row(themes.target), np.array(dataset.classes)
    frames = []
    for side in themes.sides.values():
        for number, theme in enumerate(side.themes, 1):
            doubted = theme.doubted or {}
            frames.append(
                pd.DataFrame(
                    {
                        "target": themes.target.key,
                        "theme": f"{theme.side}:{number}",
                        "name": name_of(theme, dataset.classes),
                        "images": len(theme.images),
                        "effect": theme.effect,
                        "share": theme.share,
                        "unit": target_function(themes.target.function).short_unit,
                        "place": np.arange(1, len(theme.images) + 1),
                        "index": theme.images,
                        **lists.files_of(dataset, theme.images),
                        "label": names[dataset.train_labels[theme.images]],
                        "score": scores_N[theme.images],
                        "label_looks_wrong": [i in doubted for i in theme.images.tolist()],
                        "looks_like": [names[doubted[i]] if i in doubted else "" for i in theme.images.tolist()],
                    }
                )
            )
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
