"""The shared whitening: inverse square root of a shrunken within-class covariance, as identity plus low rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

# Up to as many rows, the spectrum is computed in full.
EXACT_ROWS = 1200
OVERSAMPLING = 32
POWER_STEPS = 4
FEW_ROWS = 4
TINY = 1e-9


@dataclass(frozen=True)
class Whitening:
    """R = (I + V diag(gains) V') / sqrt(floor), so that R R' = inv((1-a) W + a tr(W)/d I) where W = V diag(λ) V'.

    Attributes:
        floor: a tr(W)/d, > 0.
        basis: V (d, r), float32, orthonormal columns by falling λ.
        gains: (r,), sqrt(floor / (floor + (1-a) λ)) - 1, in (-1, 0].
    """

    floor: float
    basis: Singles
    gains: Singles

    @classmethod
    def fit(cls, residuals: Floats, shrinkage: float, rank: int) -> Whitening:
        """Whiten by W = residuals' · residuals.

        Args:
            residuals: (n, d), n >= 1, differences from class means, scaled so that their squares add up to W.
            shrinkage: a in (0, 1], how much of W gives way to its mean variance.
            rank: at most this many directions are told apart; the others have the mean variance alone.
        Source: regularised linear discriminant analysis, Friedman 1989; WCCN, Hatch et al. 2006.
        """
        floor = shrinkage * float(np.square(residuals).sum()) / residuals.shape[1]
        if not floor > 0:  # nothing varies: every direction counts the same
            return cls(1.0, np.zeros((residuals.shape[1], 0), np.float32), np.zeros(0, np.float32))
        values, vectors = _spectrum(residuals, rank)
        gains = np.sqrt(floor / (floor + (1 - shrinkage) * values)) - 1
        return cls(floor, vectors.astype(np.float32), gains.astype(np.float32))

    def apply(self, rows: NDArray[np.floating]) -> Floats:
        """Return R'x of every row, (n, d)."""
        if 0 < len(rows) <= FEW_ROWS:  # row by row, which is faster than a product of two or three rows
            bent = np.stack([self.basis @ (self.basis.T @ row * self.gains) for row in rows])
        else:
            bent = (rows @ self.basis * self.gains) @ self.basis.T
        whitened: Floats = (rows + bent) / np.sqrt(self.floor)
        return whitened

    def place(self, rows: NDArray[np.floating]) -> Floats:
        """Return R'x of every row, (n, d), at the geometric mean of its length and √d, that of a usual one.

        Texts unlike those that the whitening was fitted to are longer, and so are the means of their experts, which
        lie apart from all others then. At length √d nothing would tell how strange a text is.
        Source: length normalisation of i-vectors, Garcia-Romero and Espy-Wilson 2011, halfway.
        """
        z = self.apply(rows)
        lengths = np.linalg.norm(z, axis=1, keepdims=True)
        placed: Floats = z * np.sqrt(np.sqrt(z.shape[1]) / np.maximum(lengths, TINY))
        return placed


def _spectrum(residuals: Floats, rank: int) -> tuple[Floats, Floats]:
    """Return the `rank` largest eigenvalues of residuals' · residuals, falling, and their vectors (d, r)."""
    n = len(residuals)
    if n > EXACT_ROWS:  # the subspace holds the few directions that matter, at a tenth of the time
        subspace = _subspace(residuals, rank + OVERSAMPLING)
        values, mixed = np.linalg.eigh(_gram(residuals @ subspace))
        vectors = subspace @ mixed
    else:
        values, mixed = np.linalg.eigh(residuals @ residuals.T)
        vectors = residuals.T @ (mixed / np.sqrt(np.maximum(values, np.finfo(float).tiny)))
    kept = np.flatnonzero(values > 1e-9 * values[-1])[::-1][:rank]
    return values[kept], vectors[:, kept]


def _gram(rows: Floats) -> Floats:
    product: Floats = rows.T @ rows
    return product


def _subspace(residuals: Floats, width: int) -> Floats:
    """Return orthonormal columns (d, width) near the leading right singular vectors.

    Source: Halko, Martinsson and Tropp 2011, algorithm 4.4, randomised subspace iteration; from a fixed start.
    """
    start = np.random.default_rng(0).standard_normal((residuals.shape[1], min(width, *residuals.shape)))
    basis = start
    for _ in range(POWER_STEPS):
        basis = np.linalg.qr(residuals.T @ (residuals @ basis))[0]
    return basis
