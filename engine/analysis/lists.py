"""Scores looked at from all sides: filtered lists, one training image outwards, class on class. No torch.

Top lists are found by partition on the memory-mapped scores; nothing here sorts all of them.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine import files
from engine.datasets.base import Dataset
from engine.errors import ConfigError
from engine.runs.manifest import Manifest
from engine.runs.notes import Notes
from engine.runs.scores import TargetRef
from engine.targets import target_function

if TYPE_CHECKING:
    import pandas as pd

RELATIONS = ("any", "same", "other")


@dataclass(frozen=True)
class Filter:
    """Which training images a list may hold; the limits of the score in its own unit, both included."""

    label: int | None = None  # of the training image
    relation: str = "any"  # of its label to the target's: `RELATIONS`
    low: float | None = None
    high: float | None = None

    def among(self, scores_N: np.ndarray, labels_N: np.ndarray, true_label: int | None) -> np.ndarray:
        """bool [N]. `true_label` of the target, None where it has several: then only "any" makes sense."""
        if self.relation != "any" and true_label is None:
            raise ConfigError(
                "This target has several labels, so no training image has the same.",
                "Choose any label, or another target.",
            )
        kept = np.ones(len(labels_N), bool)
        if self.label is not None:
            kept &= labels_N == self.label
        if self.relation != "any":
            kept &= (labels_N == true_label) == (self.relation == "same")
        if self.low is not None:
            kept &= scores_N >= self.low
        if self.high is not None:
            kept &= scores_N <= self.high
        return kept


def table(
    record: Manifest, dataset: Dataset, target: TargetRef, chosen: Filter, true_label: int | None, notes: Notes
) -> "pd.DataFrame":
    """Every training image that the filter keeps, the most harmful first, with its ticks and notes."""
    import pandas as pd

    scores_N = record.score_sets.row(target)
    indices = np.flatnonzero(chosen.among(scores_N, dataset.train_labels, true_label))
    indices = indices[np.argsort(-target_function(target.function).harmful_sign * scores_N[indices], kind="stable")]
    names = np.array(dataset.classes)
    return pd.DataFrame(
        {
            "target": target.key,
            "index": indices,
            **files_of(dataset, indices),
            "label": names[dataset.train_labels[indices]],
            "score": scores_N[indices],
            "unit": target_function(target.function).unit,
            "ticked": np.isin(indices, notes.ticked),
            "note": [notes.of(i) for i in indices.tolist()],
        }
    )


def as_csv(frame: "pd.DataFrame") -> str:
    """A table as text for other tools, quoted for spreadsheets: notes and names of classes are other people's text."""
    return files.spreadsheet_safe(frame).to_csv(index=False)


def files_of(dataset: Dataset, indices: np.ndarray) -> dict[str, list[str]]:
    """A column `file` of training images' source files; none where they come from no files of their own."""
    names = dataset.train_names
    return {"file": [str(names[index]) for index in indices.tolist()]} if names else {}


def without(scores_N: np.ndarray, left_out: np.ndarray) -> float:
    """The change of the target function, to first order, if these images are left out: −Σ τ."""
    return float(-np.asarray(scores_N[left_out], np.float64).sum())
