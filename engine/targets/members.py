"""The images that a target averages over: of which split, and which of it. No torch."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

TEST, TRAIN, OWN = "test", "train", "own"

TestLogits = Callable[[], np.ndarray]
"""Gives the trained model's logits [N_test, C] on the test split, and raises where they cannot be had: asked for only
by targets that depend on them."""


@dataclass(frozen=True, eq=False)
class Members:
    """`indices` int64 [S] into the split `split`: `TEST`, `TRAIN`, or `OWN` for an uploaded image, which is in neither
    and stands in no split's arrays: its indices are empty."""

    split: str
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)
