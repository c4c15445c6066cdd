"""Points in groups: Ward's agglomeration, and how many groups there are by their silhouettes. No torch.

Ward (Hierarchical Grouping to Optimize an Objective Function, 1963) begins with every point alone, and joins, again and
again, the two groups whose union adds least to the sum of squared distances from the groups' means:

    d²(A, B) = 2 |A| |B| / (|A| + |B|) · ‖m_A − m_B‖²

which is the squared distance of two single points («Ward2» of Murtagh and Legendre, arXiv 1111.6285). The distances of
a union follow from those of its parts (Lance and Williams, 1967):

    d²(A ∪ B, C) = ((|A| + |C|) d²(A, C) + (|B| + |C|) d²(B, C) − |C| d²(A, B)) / (|A| + |B| + |C|)

The silhouette of a point (Rousseeuw, 1987) compares a, its mean distance from the others of its group, with b, the
least of its mean distances from the other groups: s = (b − a) / max(a, b), and 0 of a point that is a group alone. The
number of groups is that with the largest mean silhouette (Kaufman and Rousseeuw, Finding Groups in Data, 1990, ch. 2).

Nothing here is random. M points take M² floats and about M³ operations: a few hundredths of a second for 200, a second
for 1000. It is not for many thousands, of which not even the distances would fit.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Merge:
    """One step of the agglomeration: the group of point `b` joins that of point `a` < `b`, each named by its first
    point; `height` is d of the two, which never falls from one step to the next."""

    a: int
    b: int
    height: float


def distances(points_MD: np.ndarray) -> np.ndarray:
    """Euclidean, float64 [M, M]: row by row, so that equal points are exactly 0 apart."""
    points_MD = np.asarray(points_MD, np.float64)
    return np.sqrt([np.square(points_MD - point_D).sum(1) for point_D in points_MD]).reshape(len(points_MD), -1)


def ward(distances_MM: np.ndarray) -> list[Merge]:
    """The M − 1 merges of M points, in order. Of pairs that are equally near, the first by its points' numbers."""
    m = len(distances_MM)
    squares_MM, sizes_M, merges = np.square(distances_MM, dtype=np.float64), np.ones(m), []
    np.fill_diagonal(squares_MM, np.inf)
    for _ in range(m - 1):
        a, b = divmod(int(squares_MM.argmin()), m)
        nearest = squares_MM[a, b]
        merges.append(Merge(a, b, float(np.sqrt(nearest))))
        joined_M = (sizes_M[a] + sizes_M) * squares_MM[a] + (sizes_M[b] + sizes_M) * squares_MM[b] - sizes_M * nearest
        squares_MM[a] = squares_MM[:, a] = joined_M / (sizes_M[a] + sizes_M[b] + sizes_M)
        squares_MM[a, a] = squares_MM[b] = squares_MM[:, b] = np.inf
        sizes_M[a] += sizes_M[b]
    return merges


def cut(merges: list[Merge], groups: int) -> np.ndarray:
    """The group of each point once that many are left: int64 [M], numbered by their first points."""
    first_M = np.arange(len(merges) + 1)
    for merge in merges[: len(first_M) - groups]:
        first_M[first_M == merge.b] = merge.a
    return np.unique(first_M, return_inverse=True)[1]


def silhouettes(distances_MM: np.ndarray, groups_M: np.ndarray) -> np.ndarray:
    """Of each point, float64 [M], of two groups or more."""
    of_group_MG = np.equal.outer(groups_M, np.arange(groups_M.max() + 1)).astype(np.float64)
    sums_MG, sizes_G, own = distances_MM @ of_group_MG, of_group_MG.sum(0), np.arange(len(groups_M))
    size_M = sizes_G[groups_M]
    within_M = sums_MG[own, groups_M] / np.maximum(size_M - 1, 1)
    means_MG = sums_MG / sizes_G
    means_MG[own, groups_M] = np.inf
    between_M = means_MG.min(1)
    largest_M = np.maximum(within_M, between_M)
    return np.where(size_M > 1, (between_M - within_M) / np.where(largest_M > 0, largest_M, 1), 0.0)


@dataclass(frozen=True)
class Groups:
    """The group of each point, int64 [M]; the mean silhouette, None of one group."""

    of_point: np.ndarray
    silhouette: float | None


def grouped(points_MD: np.ndarray, count: int | None = None, most: int = 8) -> Groups:
    """Into `count` groups, no more than there are points that differ; where it is None, into that number from 2 to
    `most` whose mean silhouette is largest, the smaller of two that are as large. Points that are all equal, and a
    single one, are one group."""
    points_MD = np.asarray(points_MD, np.float64)
    differ = len(np.unique(points_MD, axis=0)) if len(points_MD) else 0
    alone = Groups(np.zeros(len(points_MD), np.int64), None)
    if differ < 2 or count == 1:
        return alone
    distances_MM = distances(points_MD)
    merges = ward(distances_MM)

    def at(number: int) -> Groups:
        groups_M = cut(merges, number)
        return Groups(groups_M, float(silhouettes(distances_MM, groups_M).mean()))

    if count is not None:
        return at(min(count, differ))
    # Of as many groups as points each is alone, and the silhouette 0: it says nothing.
    asked = [at(number) for number in range(2, min(most, differ, len(points_MD) - 1) + 1)]
    return max(asked, key=lambda groups: groups.silhouette or 0.0) if asked else alone
