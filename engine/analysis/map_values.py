"""What the points of a map are coloured by: one number or one group of each training image. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from engine.analysis.logits import judged
from engine.datasets.base import Dataset
from engine.errors import ConfigError
from engine.runs.manifest import Manifest
from engine.runs.notes import INFLUENCE, LABELS, Notes
from engine.runs.scores import TargetRef
from engine.targets import target_function

TRAIN_LOGITS = "model/train_logits.npy"
TICKED = {INFLUENCE: "ticked", LABELS: "ticked in Find bad labels"}
NOTED = "with a note"
ENDS = 0.95  # share of the images whose numbers a scale of colours tells apart; the outermost have those of its ends


@dataclass(frozen=True, eq=False)
class Groups:
    """`of` int64 [N]: the number of each image's group; `names` of the groups, text of others among them."""

    of: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Amounts:
    """`of` float64 [N]; `signed`: zero is in the middle of the colours, above it is worse. `end`: where they end."""

    of: np.ndarray
    signed: bool
    end: float


def by_class(dataset: Dataset) -> Groups:
    return Groups(dataset.train_labels, dataset.classes)


def by_harm(record: Manifest, ref: TargetRef) -> Amounts:
    """How much each image harms the target, below zero where it helps, in the function's own unit."""
    harm_N = target_function(ref.function).harmful_sign * np.asarray(record.score_sets.row(ref), np.float64)
    return Amounts(harm_N, True, _end(np.abs(harm_N)))


def by_loss(record: Manifest, dataset: Dataset) -> Amounts:
    """The trained model's loss on each image's given label, in nats."""
    loss_N = -judged(_logits(record), dataset.train_labels).given
    return Amounts(loss_N, False, _end(loss_N))


def by_agreement(record: Manifest, dataset: Dataset) -> Groups:
    """Whether the model gives an image the label that it has."""
    said = judged(_logits(record), dataset.train_labels).predicted_label
    return Groups((said != dataset.train_labels).astype(np.int64), ("the model agrees", "the model disagrees"))


def by_tag(members: np.ndarray, tag: str, images: int) -> Groups:
    """Those that have a tag, and the others."""
    groups = np.zeros(images, np.int64)
    groups[members] = 1
    return Groups(groups, ("others", tag))


def tags(notes: Notes, images: int) -> dict[str, np.ndarray]:
    """The training images of each tag, by its name: ticked, with a note, and each word of their notes that begins with
    #, such as #blurry. Tags that no image has are left away."""
    found: dict[str, list[int]] = {name: list(notes.ticked_in(of)) for of, name in TICKED.items()}
    for index, text in _notes_of_images(notes.notes):
        found.setdefault(NOTED, []).append(index)
        for word in text.split():
            tag = word.strip(".,;:!?()«»\"'").lower()
            if tag.startswith("#") and tag[1:]:
                found.setdefault(tag[:40], []).append(index)
    there = {name: np.unique([i for i in indices if i < images]).astype(np.int64) for name, indices in found.items()}
    return {name: indices for name, indices in there.items() if len(indices)}


def _notes_of_images(notes: Mapping[str, str]) -> list[tuple[int, str]]:
    return [(int(what), text) for what, text in notes.items() if what.isdecimal() and text]


def _logits(record: Manifest) -> np.ndarray:
    if TRAIN_LOGITS not in record.files:
        raise ConfigError(
            f"Run {record.run_id} has no logits of its training images, so that their loss is not known.",
            "Colour by class, or by help and harm.",
        )
    return record.train_logits()


def _end(sizes: np.ndarray) -> float:
    """Above 0, where there is anything above it."""
    finite = sizes[np.isfinite(sizes)]
    end = float(np.quantile(finite, ENDS)) if len(finite) else 0.0
    return end or float(finite.max(initial=0.0)) or 1.0
