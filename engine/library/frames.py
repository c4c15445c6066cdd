"""What `engine.attribute` gives: an array, that knows what its rows and numbers are."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import ConfigError
from engine.targets import target_function

if TYPE_CHECKING:
    import pandas as pd


class Scores(np.ndarray):
    """Scores float32 [K, N] of K targets and N training images, in every way an array of NumPy.

    `index_sets` are the images that each target averages over, `function` the target function's name and `start` the
    first step at which weights counted. Of an array that was computed or cut from it these are no longer known: they
    are None then.
    """

    index_sets: tuple[tuple[int, ...], ...] | None
    function: str | None
    start: int | None

    @classmethod
    def of(cls, scores_KN: np.ndarray, index_sets: Sequence[np.ndarray], function: str, start: int) -> "Scores":
        scores = np.asarray(scores_KN).view(cls)
        scores.index_sets = tuple(tuple(map(int, each)) for each in index_sets)
        scores.function, scores.start = function, start
        return scores

    def __array_finalize__(self, other: Any) -> None:
        self.index_sets = self.function = self.start = None

    def to_pandas(self) -> "pd.DataFrame":
        """A table: a row a training image, by its number, and a column a target, by its number. `attrs` say the
        `unit` and the `meaning` of a score, the `function`, the images that each target averages over (`targets`), and
        the first step at which weights counted (`from_step`).

        Raises `ConfigError` where the array was computed or cut from what `attribute` gave.
        """
        import pandas as pd

        if self.index_sets is None or self.function is None or self.start is None:
            raise ConfigError(
                f"These scores {list(self.shape)} were computed or cut from others, and their targets are not known.",
                "Take to_pandas() of what attribute() gave, and cut the table.",
            )
        function, (targets, n) = target_function(self.function), self.shape
        frame = pd.DataFrame(
            np.array(self).T,
            index=pd.RangeIndex(n, name="training image"),
            columns=pd.RangeIndex(targets, name="target"),
        )
        frame.attrs = {
            "unit": function.unit,
            "meaning": function.meaning(),
            "function": function.name,
            "targets": [list(each) for each in self.index_sets],
            "from_step": self.start,
        }
        return frame
