"""The most helpful and most harmful training images of a target. No torch."""

from dataclasses import dataclass

import numpy as np

from engine.targets import target_function


@dataclass(frozen=True)
class Ranking:
    """Training images in order of effect: `helpful[0]` helps most, `harmful[0]` harms most.

    Indices int64 [k]. An example helps where its presence moves the target function the way
    one wants: a loss down, a margin up.
    """

    helpful: np.ndarray
    harmful: np.ndarray
    helpful_of: int  # how many there are on either side
    harmful_of: int
    first: int  # the rank of the first in the lists, from 1
    pages: int  # lists as long as these that there are, at least one


def rank(scores_N: np.ndarray, function: str, k: int, among: np.ndarray | None = None, page: int = 1) -> Ranking:
    """The k most helpful and k most harmful, or the `page`-th k of each, by partition; only scores on that side
    of zero, and only where `among` [N] is true."""
    harm, start = target_function(function).harmful_sign * np.asarray(scores_N), (page - 1) * k

    def largest(values):
        asked = np.flatnonzero((values > 0) & (True if among is None else among))
        count = min(start + k, len(asked))
        top = asked[np.argpartition(values[asked], -count)[-count:]] if count else asked
        return top[np.lexsort((top, -values[top]))][start:], len(asked)

    (helpful, helps), (harmful, harms) = largest(-harm), largest(harm)
    return Ranking(helpful, harmful, helps, harms, start + 1, max(1, -(-max(helps, harms) // k)))
