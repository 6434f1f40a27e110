"""Short lists of experts by few of their numbers, along which the rows of a pool differ most; and their products."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Singles = NDArray[np.float32]
Ints = NDArray[np.int64]

WIDTH = 128
# So many experts are listed at least, and this part of a large pool, which has more that are hard to tell apart.
LISTED = 320
LISTED_PART = 0.02
# The directions are those of as many rows, evenly spaced.
FITTED_ROWS = 768
# So many rows stay in a core's cache while all spans of a query are compared with them.
CHUNK = 32


@dataclass(frozen=True)
class Head:
    """What is left of the rows [z̄; -|z̄|²/2] of n experts along h directions.

    Attributes:
        basis: (d, h), orthonormal columns. rows: (n, h). offsets: (n,).
    """

    basis: Singles
    rows: Singles
    offsets: Singles

    @classmethod
    def of(cls, experts: Singles) -> Head:
        """Keep the principal directions of the experts' rows (n, d + 1)."""
        places = np.linspace(0, len(experts) - 1, min(FITTED_ROWS, len(experts))).round().astype(np.int64)
        some = experts[places, :-1].astype(np.float64)
        values, mixed = np.linalg.eigh(some @ some.T)
        kept = np.flatnonzero(values > 1e-9 * values[-1])[::-1][:WIDTH]
        basis = (some.T @ (mixed[:, kept] / np.sqrt(values[kept]))).astype(np.float32)
        rows = experts[:, :-1] @ basis
        # Half of what is left out of |z̄|²: an expert is as near to its own texts along the rest, too.
        return cls(basis, rows, 0.5 * experts[:, -1] - 0.25 * np.square(rows).sum(axis=1))

    def products(self, queries: Singles) -> Singles:
        """Return about what the inner products of query rows (spans, d + 1) with the experts' are, (spans, n)."""
        found: Singles = (self.rows @ (queries[:, :-1] @ self.basis).T + self.offsets[:, None]).T
        return found


def length(experts: int) -> int:
    """Return how many of a pool's experts a short list has."""
    return max(LISTED, round(LISTED_PART * experts))


def products(experts: Singles, places: Ints, queries: Singles) -> Singles:
    """Return the inner products of query rows (spans, d) with the experts' rows (n, d) at some places, (spans, m)."""
    found = np.empty((len(queries), len(places)), np.float32)
    for start in range(0, len(places), CHUNK):
        some = experts[places[start : start + CHUNK]]
        # Span by span: products of a few rows at once are slower.
        for row, query in zip(found, queries, strict=True):
            row[start : start + CHUNK] = some @ query
    return found
