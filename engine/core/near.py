"""Which of U images are near each other: exactly, block by block, in memory that does not grow with the pairs.

    s(x, y)       the similarity, from −1 to 1: ⟨x, y⟩ of unit vectors, or the largest over the turns of an image
    x ~ y         s(x, y) ≥ `least`
    degree(x)     how many others x is near to
    twin(t)       of an image t that is in the test split alone: the training image with the largest s(x, t), of those
                  near it

`Hashes` are ±1/8 in 64 dimensions, of which ⟨x, y⟩ = 1 − 2 · (bits that differ) / 64, exactly. `Directions` are rows
of D numbers, of which the cosine is taken. Most of the U² / 2 pairs are decided by a sketch: with P an orthonormal
basis of 63 directions and r_x = √(1 − ‖Pᵀx‖²),

    ⟨x, y⟩ ≤ ⟨Pᵀx, Pᵀy⟩ + r_x r_y                                                (Cauchy and Schwarz)

so that pairs whose bound is below `least` are not near, whatever the rest of their numbers is, and only the others are
looked at whole. The answer is that of all pairs; the basis decides the time alone.

Groups are stars, not chains: with single linkage a ~ b ~ c ~ … soon leads from anything to anything. The image with the
most neighbours becomes the middle of a group, with all its neighbours that are in none yet, and so on: every member is
near the middle, which is the one to keep. Training images come before test images, so that the middle of a group with
training images in it is one.
"""

import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SKETCH = 64  # dimensions of a sketch, the residual among them

SAMPLE = 1024  # rows, evenly spread, that the sketch's directions are of

ROWS, COLUMNS = 512, 8192  # of a block of pairs: 16 MB of float32

DENSE = 64  # a block with more than one pair in so many below the bound is looked at whole

PIECE = 1 << 24  # numbers that are gathered at a time

HITS = 1 << 21  # pairs that are held at a time while groups are made

ROUNDING = 1e-5  # of float32 sums, which must lose no pair

Before = Callable[[int], None]  # (done), before each block; may raise, which cancels


def _nothing(done: int) -> None:
    """Progress that nobody watches."""


class Similar(abc.ABC):
    """What pairs are compared by. `n` images U, on a device."""

    n: int
    device: torch.device

    @abc.abstractmethod
    def near(self, a: Tensor, b: Tensor, least: float) -> tuple[Tensor, Tensor, Tensor]:
        """Of the images `a` int64 [A] and `b` int64 [B], the pairs with s ≥ `least`: their positions in `a` and in `b`,
        int64 [P], in the order of those, and s, float32 [P]."""


@dataclass(frozen=True, eq=False)
class Hashes(Similar):
    """Perceptual hashes as vectors. `ways` float32 [T, U, 64]: ±1/8 of each of T turns, the first as the image is; 0 of
    an image that has no hash, which is near none. Two images are as near as the nearest of their turns."""

    ways: Tensor

    @classmethod
    def of(cls, bits: np.ndarray, none: np.ndarray, device: torch.device) -> "Hashes":
        """Of bool [T, U, 64]; `none` bool [U]: these images have no hash."""
        ways = torch.from_numpy(np.where(none[:, None], 0.0, np.where(bits, 0.125, -0.125)).astype(np.float32))
        return cls(ways.to(device))

    @property
    def n(self) -> int:
        return self.ways.shape[1]

    @property
    def device(self) -> torch.device:
        return self.ways.device

    def near(self, a: Tensor, b: Tensor, least: float) -> tuple[Tensor, Tensor, Tensor]:
        best = self.ways[0, a] @ self.ways[0, b].T  # [A, B]
        for way in self.ways[1:]:  # both ways: the bits of a turned image are not quite those of its hash, turned
            torch.maximum(best, way[a] @ self.ways[0, b].T, out=best)
            torch.maximum(best, self.ways[0, a] @ way[b].T, out=best)
        return _at_least(best, least - ROUNDING)


@dataclass(frozen=True, eq=False)
class Directions(Similar):
    """Rows of numbers by the cosine of what they are less their mean. `rows(index)` float32 [n, D] are those of some
    images; `sketch` float32 [U, ≤ 64] bounds the cosine; 0 of a row that is the mean itself, which is near none."""

    rows: Callable[[np.ndarray], np.ndarray]
    mean: Tensor  # [D]
    sketch: Tensor
    whole: bool  # whether the sketch is all that there is of the rows

    @classmethod
    def of(cls, rows: Callable[[np.ndarray], np.ndarray], n: int, device: torch.device) -> "Directions":
        """Of `n` rows, looked at three times, a piece at a time."""
        (width,) = rows(np.arange(1)).shape[1:]
        total = torch.zeros(width, dtype=torch.float64, device=device)
        for index in _pieces(n, width):
            total += torch.from_numpy(rows(index)).to(device).double().sum(0)
        unsketched = cls(rows, (total / max(1, n)).float(), torch.empty(n, 0, device=device), False)
        if width <= SKETCH:
            return cls(rows, unsketched.mean, unsketched._units(np.arange(n)), True)
        sample = unsketched._units(np.unique(np.linspace(0, n - 1, min(n, SAMPLE)).astype(np.int64)))
        basis = _basis(sample, SKETCH - 1)  # [D, 63]
        sketch = torch.empty(n, basis.shape[1] + 1, device=device)
        for index in _pieces(n, width):
            units = unsketched._units(index)
            inside = units @ basis
            outside = (units.square().sum(1) - inside.square().sum(1)).clamp(min=0).sqrt()
            sketch[int(index[0]) : int(index[-1]) + 1] = torch.cat([inside, outside[:, None]], 1)
        return cls(rows, unsketched.mean, sketch, False)

    @property
    def n(self) -> int:
        return len(self.sketch)

    @property
    def device(self) -> torch.device:
        return self.sketch.device

    def _units(self, index: np.ndarray) -> Tensor:
        """[n, D], of length 1 or 0."""
        rows = torch.from_numpy(np.ascontiguousarray(self.rows(index), np.float32)).to(self.device) - self.mean
        length = rows.norm(dim=1, keepdim=True)
        return torch.where(length > 0, rows / length, torch.zeros_like(rows))

    def near(self, a: Tensor, b: Tensor, least: float) -> tuple[Tensor, Tensor, Tensor]:
        i, j, bound = _at_least(self.sketch[a] @ self.sketch[b].T, least if self.whole else least - ROUNDING)
        if self.whole or not len(i):
            return i, j, bound
        if len(i) * DENSE > len(a) * len(b):
            return self._of_all(a, b, least)
        s = torch.cat([self._of_pairs(a[p], b[q]) for p, q in _chunks(i, j, len(self.mean))])
        near = s >= least
        return i[near], j[near], s[near]

    def _of_pairs(self, x: Tensor, y: Tensor) -> Tensor:
        """s of pairs, [P]. Each image is read once, for an image may be in many pairs."""
        images, at = torch.unique(torch.cat([x, y]), return_inverse=True)
        units = self._units(images.cpu().numpy())
        return (units[at[: len(x)]] * units[at[len(x) :]]).sum(1)

    def _of_all(self, a: Tensor, b: Tensor, least: float) -> tuple[Tensor, Tensor, Tensor]:
        units, found, start = self._units(a.cpu().numpy()), [], 0
        for index in _pieces(len(b), len(self.mean)):
            i, j, s = _at_least(units @ self._units(b.cpu().numpy()[index]).T, least)
            found.append((i, j + start, s))
            start += len(index)
        i, j, s = map(torch.cat, zip(*found, strict=True))
        order = torch.argsort(i, stable=True)
        return i[order], j[order], s[order]


def _at_least(similarities: Tensor, least: float) -> tuple[Tensor, Tensor, Tensor]:
    """Where a matrix [A, B] is `least` or more, and its values there."""
    reached = similarities >= least
    if not reached.any():  # of most blocks, and much faster to say than to list
        none = torch.empty(0, dtype=torch.int64, device=similarities.device)
        return none, none, similarities[:0, 0]
    i, j = reached.nonzero(as_tuple=True)
    return i, j, similarities[i, j]


def _basis(sample: Tensor, most: int) -> Tensor:
    """Orthonormal columns [D, ≤ most]: the directions in which the sample [S, D] is largest."""
    values, vectors = torch.linalg.eigh((sample @ sample.T).double())
    largest = vectors[:, torch.argsort(values, descending=True)[:most]].float()  # [S, most]
    basis, _ = torch.linalg.qr(sample.T @ largest)
    return basis


def _pieces(n: int, width: int) -> Iterator[np.ndarray]:
    """0 to n − 1 in consecutive pieces of `PIECE` numbers at most."""
    rows = max(1, PIECE // max(1, width))
    for start in range(0, n, rows):
        yield np.arange(start, min(start + rows, n))


def _chunks(i: Tensor, j: Tensor, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    rows = max(1, PIECE // max(1, width))
    return zip(i.split(rows), j.split(rows), strict=True)


# -- all pairs


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Of each of U images: `degree` int64 [U], how many others are near it; `twin` int64 [U], of those from `training`
    on the training image nearest to it, −1 where none is near; `similarity` float32 [U] to that, 0 without one."""

    training: int  # images before this one are in the training split, those from it on in the test split alone
    degree: np.ndarray
    twin: np.ndarray
    similarity: np.ndarray

    @property
    def pairs(self) -> int:
        return int(self.degree.sum()) // 2


def blocks(n: int) -> int:
    """How many blocks of pairs `neighbours` looks at, of `n` images."""
    return len(_blocks(n))


def _blocks(n: int) -> list[tuple[int, int]]:
    """First row and first column of each: those on and above the diagonal."""
    return [(row, column) for row in range(0, n, ROWS) for column in range(row, n, COLUMNS)]


def neighbours(similar: Similar, training: int, least: float, before: Before = _nothing) -> Neighbours:
    """Looks at all pairs. The first `training` images have a copy in the training split, the others are in the test
    split alone. Of several training images that are equally near the first is the twin."""
    n, device = similar.n, similar.device
    degree = torch.zeros(n, dtype=torch.int64, device=device)
    twins = _Twins(training, torch.zeros(n, device=device), torch.full((n,), -1, device=device))
    for done, (row, column) in enumerate(_blocks(n)):
        before(done)
        a = torch.arange(row, min(row + ROWS, n), device=device)
        b = torch.arange(column, min(column + COLUMNS, n), device=device)
        i, j, s = similar.near(a, b, least)
        p, q = a[i], b[j]
        above = p < q  # each pair once, and no image with itself
        p, q, s = p[above], q[above], s[above]
        degree += torch.bincount(p, minlength=n) + torch.bincount(q, minlength=n)
        twins.look(p, q, s)
    return Neighbours(training, *(each.cpu().numpy() for each in (degree, twins.of, twins.best)))


@dataclass(frozen=True, eq=False)
class _Twins:
    """The best training image of each test image so far, changed in place: `best` [U] and `of` [U]."""

    training: int
    best: Tensor
    of: Tensor

    def look(self, p: Tensor, q: Tensor, s: Tensor) -> None:
        """At pairs of an image p and a later one q. They come in ascending order of p, block after block, so that the
        first of equals stays."""
        across = (p < self.training) & (q >= self.training)
        p, q, s = p[across], q[across], s[across]
        if not len(p):
            return
        reached = torch.zeros_like(self.best).scatter_reduce_(0, q, s, "amax")
        better = reached > self.best
        chosen = better[q] & (s == reached[q])
        first = torch.full_like(self.of, self.training).scatter_reduce_(0, q[chosen], p[chosen], "amin")
        self.of[better], self.best[better] = first[better], reached[better]


# -- groups


@dataclass(frozen=True, eq=False)
class Star:
    """A group: its middle, and the members near it, the nearest first, with s to it."""

    middle: int
    members: np.ndarray  # int64 [m]
    similarity: np.ndarray  # float32 [m]


def stars(similar: Similar, near: Neighbours, least: float, before: Before = _nothing) -> list[Star]:
    """The groups, in the order in which they are made. What is near something and left over, since that is in a group
    of another middle, is in none."""
    free = near.degree > 0
    order = np.flatnonzero(free)
    order = order[np.lexsort((order, -near.degree[order], order >= near.training))]
    found: list[Star] = []
    at, n = 0, len(order)
    while at < n:
        before(at)
        # As many as have no more than HITS neighbours together: one at least.
        together = np.cumsum(near.degree[order[at : at + ROWS]]) <= HITS
        stop = at + max(1, int(together.sum()))
        batch = order[at:stop][free[order[at:stop]]]
        found += _stars_of(similar, batch, free, least)
        at = stop
    return found


def _stars_of(similar: Similar, batch: np.ndarray, free: np.ndarray, least: float) -> list[Star]:
    """Those with a middle in the batch, one after the other; takes them and their members out of `free`, in place."""
    others = np.flatnonzero(free)
    a, found = torch.from_numpy(batch).to(similar.device), []
    parts = []
    for start in range(0, len(others), COLUMNS):
        i, j, s = similar.near(a, torch.from_numpy(others[start : start + COLUMNS]).to(similar.device), least)
        parts.append([each.cpu().numpy() for each in (i, j + start, s)])
    if not parts:
        return found
    i, j, s = map(np.concatenate, zip(*parts, strict=True))
    order = np.argsort(i, kind="stable")
    ends = np.searchsorted(i[order], np.arange(len(batch) + 1))
    for k, middle in enumerate(batch.tolist()):
        if not free[middle]:
            continue
        free[middle] = False
        of = order[ends[k] : ends[k + 1]]
        of = of[free[others[j[of]]]]
        if len(of):
            of = of[np.lexsort((others[j[of]], -s[of]))]
            found.append(Star(middle, others[j[of]], s[of]))
            free[others[j[of]]] = False
    return found
