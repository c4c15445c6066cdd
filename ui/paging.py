"""Pages of a list, counted from 1."""

import numpy as np


def of_class(labels_N: np.ndarray, label: int | None) -> np.ndarray:
    """Indices int64 [M] of the images with this label, or of all."""
    return np.arange(len(labels_N)) if label is None else np.flatnonzero(labels_N == label)


def pages(count: int, a_page: int) -> int:
    """How many pages `count` things take, at least one."""
    return max(1, -(-count // a_page))


def of_page(items, page: int, a_page: int):
    """What stands on a page, of an array or a list; nothing beyond the last page, and before the first."""
    return items[(page - 1) * a_page : page * a_page] if page >= 1 else items[:0]
