"""Pages of a list."""

import numpy as np


def last(n: int) -> int:
    """The index of the last of n images."""
    return n - 1


def of_class(labels_N: np.ndarray, label: int | None) -> np.ndarray:
    """int64 [M], of the images with this label, or of all."""
    return np.arange(len(labels_N)) if label is None else np.flatnonzero(labels_N == label)


def pages(count: int, a_page: int) -> int:
    return max(1, -(-count // a_page))


def of_page(items, page: int, a_page: int):
    """The `page`-th (from 1) `a_page` of them."""
    return items[(page - 1) * a_page : page * a_page]
