"""Which images lie within shapes that a person draws on a map. No torch.

A shape is a polygon, the corners of a lasso in their order, or a box. A point is within a polygon where a ray from it
to the right crosses the polygon's edges an odd number of times (Shimrat, CACM 1962); of several shapes it is within
where it is within any. Computed here and not in the browser, whose own highlighting is of pixels.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MOST_CORNERS = 10_000  # of a lasso: a hand draws some hundreds

MOST_SHAPES = 100

Shape = tuple[np.ndarray, np.ndarray]
"""`x` and `y` of its corners, float64 [V] each."""


def within(places: np.ndarray, shapes: Sequence[Shape]) -> np.ndarray:
    """int64, the rows of `places` [N, 2] that lie within any of the shapes, each the `x` and `y` of its corners."""
    found = np.zeros(len(places), bool)
    for x, y in shapes:
        found |= in_polygon(places, x, y)
    return np.flatnonzero(found)


def in_polygon(places: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """bool [N], of one polygon with corners `x` and `y` [V], closed by itself."""
    inside = np.zeros(len(places), bool)
    if len(x) < 3:
        return inside
    at = np.asarray(places, np.float64)
    near = np.flatnonzero((at[:, 0] >= x.min()) & (at[:, 0] <= x.max()) & (at[:, 1] >= y.min()) & (at[:, 1] <= y.max()))
    px, py = at[near].T
    odd = np.zeros(len(near), bool)
    for x0, y0, x1, y1 in zip(x, y, np.roll(x, -1), np.roll(y, -1), strict=True):
        if y0 != y1:
            crosses = (y0 > py) != (y1 > py)
            odd ^= crosses & (px < (x1 - x0) * (py - y0) / (y1 - y0) + x0)
    inside[near] = odd
    return inside


def box(x0: float, x1: float, y0: float, y1: float) -> Shape:
    """The corners of a box as a shape; its lower edges are within, its upper ones are not."""
    x0, x1 = sorted((x0, x1))
    y0, y1 = sorted((y0, y1))
    return np.array([x0, x1, x1, x0]), np.array([y0, y0, y1, y1])


def shapes_of(sent: Any) -> list[Shape]:
    """What a browser sends, a list of {"x": [...], "y": [...]}, as shapes. What is none is left away: anybody may send
    anything."""
    shapes = []
    for each in (sent if isinstance(sent, list) else [])[:MOST_SHAPES]:
        x, y = (_numbers(each.get(name)) for name in "xy") if isinstance(each, Mapping) else ([], [])
        if x and len(x) == len(y):
            shapes.append((np.array(x, np.float64), np.array(y, np.float64)))
    return shapes


def _numbers(values: Any) -> list[float]:
    """The values, where they are numbers, and not too many; else none."""
    sound = (
        isinstance(values, list)
        and len(values) <= MOST_CORNERS
        and all(type(value) in (int, float) and math.isfinite(value) for value in values)
    )
    return values if sound else []
