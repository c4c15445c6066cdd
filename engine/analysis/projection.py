"""Rows of numbers drawn on a plane: exact principal components. No torch.

    X [N, D] − mean  =  Z Wᵀ + rest,     W [D, A] the A directions in which the rows vary most, two for a plane

W are the eigenvectors of the covariance C = (X − mean)ᵀ (X − mean) / N with the largest eigenvalues λ₁ ≥ λ₂; the share
of the variance that an axis shows is λ / trace C. An eigenvector's sign says nothing; it is the one that makes its
largest entry positive, so that the same rows are drawn the same way each time. Where D > N the N × N products of the
rows are decomposed in place of C: the same numbers (Jolliffe, Principal Component Analysis, 2002, section 3.5).

Do not read distances off a map whose two axes show little of the variance: what lies near each other on the plane may
be far apart in the rest.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engine.errors import ConfigError

FEWEST = 3  # rows that a plane is drawn of

PIECE = 1 << 23  # numbers that are summed at a time, in float64

ALIKE = 1e-12  # of the mean square: less variance than that is rounding


@dataclass(frozen=True, eq=False)
class Principal:
    """`mean` [D] and `axes` [D, A], float64, and the share of the variance that each axis shows, from 0 to 1."""

    mean: np.ndarray
    axes: np.ndarray
    explained: tuple[float, ...]

    def project(self, rows: np.ndarray) -> np.ndarray:
        """Where rows [M, D] lie on the plane, float32 [M, A]: other rows than those it was made of, too."""
        at = np.empty((len(rows), self.axes.shape[1]), np.float32)
        for piece in _pieces(rows):
            at[piece] = (np.asarray(rows[piece], np.float64) - self.mean) @ self.axes
        return at


def principal(rows: np.ndarray, before: Callable[[int], None] = lambda done: None, axes: int = 2) -> Principal:
    """Of rows [N, D], which may be a memory map. `before` is told how many rows are done.

    Axes beyond those that the rows have (of one number an image, the second) are zero, and show nothing. Raises
    `ConfigError` for fewer than `FEWEST` rows, and where all are equal or not finite: there is no plane then.
    """
    n, numbers = rows.shape
    if n < FEWEST:
        raise ConfigError(f"A map needs {FEWEST} images; here are {n}.", "Look at them in a list.")
    mean, square = _moments(rows)
    products = _covariance(rows, mean, before) if numbers <= n else _products(rows, mean)
    variance = float(np.trace(products))
    if variance <= ALIKE * square:
        raise ConfigError(
            f"All {n:,} images are equal in what the map is made of, so that there is nothing to draw.",
            "Choose another source for the map.",
        )
    values, vectors = np.linalg.eigh(products)
    values, vectors = np.maximum(values[::-1][:axes], 0), vectors[:, ::-1][:, :axes]
    directions, shares = np.zeros((numbers, axes)), np.zeros(axes)
    directions[:, : len(values)] = vectors if numbers <= n else _from_products(rows, mean, vectors)
    shares[: len(values)] = values / variance
    directions[:, shares <= ALIKE] = 0  # of rounding alone
    return Principal(mean, _signed(directions), tuple(shares.tolist()))


def _moments(rows: np.ndarray) -> tuple[np.ndarray, float]:
    """The mean [D], and the sum of all squares. Raises `ConfigError` where a number is not finite."""
    mean, square = np.zeros(rows.shape[1]), 0.0
    for piece in _pieces(rows):
        block = np.asarray(rows[piece], np.float64)
        mean += block.sum(0)
        square += float(np.einsum("nd,nd->", block, block))
    if not np.isfinite(square):
        raise ConfigError("The numbers of some images are not finite.", "Compute them again, or choose another source.")
    return mean / len(rows), square


def _from_products(rows: np.ndarray, mean: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """[D, A]: an axis is the sum of the centred rows, weighted by an eigenvector [N] of their products."""
    axes = np.zeros((rows.shape[1], vectors.shape[1]))
    for piece in _pieces(rows):
        axes += (np.asarray(rows[piece], np.float64) - mean).T @ vectors[piece]
    lengths = np.linalg.norm(axes, axis=0)
    return np.divide(axes, lengths, out=np.zeros_like(axes), where=lengths > 0)


def _signed(axes: np.ndarray) -> np.ndarray:
    largest = axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])]
    return axes * np.where(largest < 0, -1.0, 1.0)


def _covariance(rows: np.ndarray, mean: np.ndarray, before: Callable[[int], None]) -> np.ndarray:
    """N C, [D, D]."""
    total = np.zeros((len(mean), len(mean)))
    for piece in _pieces(rows):
        before(piece.start)
        block = np.asarray(rows[piece], np.float64) - mean
        total += block.T @ block
    return total


def _products(rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """[N, N], of the centred rows with each other: fewer of them than they have numbers."""
    centred = np.asarray(rows, np.float64) - mean
    return centred @ centred.T


def _pieces(rows: np.ndarray) -> list[slice]:
    at_once = max(1, PIECE // max(1, rows.shape[1]))
    return [slice(start, min(start + at_once, len(rows))) for start in range(0, len(rows), at_once)]
