"""The plane that the map of experts is drawn in. numpy only."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Coordinates are told as whole numbers of this part.
UNIT = 1e-4

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Plane:
    """Where embeddings are on the map.

    Attributes:
        mean: (dim,), which is at the origin. axes: (dim, 2), orthonormal.
    """

    mean: Floats
    axes: Floats

    @property
    def version(self) -> str:
        """Equal for equal planes: coordinates of two versions are not compared."""
        return hashlib.sha256(self.mean.tobytes() + self.axes.tobytes()).hexdigest()[:12]

    def place(self, vectors: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the coordinates (n, 2) of embeddings (n, dim), in units of UNIT."""
        return np.rint((vectors - self.mean) @ self.axes / UNIT).astype(np.int64)

    def turned_to(self, other: "Plane") -> "Plane":
        """Return this plane with its axes as near to the other's as turning and mirroring can make them."""
        u, _, v = np.linalg.svd(self.axes.T @ other.axes)
        return Plane(self.mean, self.axes @ (u @ v))


def fit(vectors: NDArray[np.floating]) -> Plane:
    """Return the plane of the two principal components of the rows (n, dim); signs are canonical."""
    mean = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors.astype(np.float64) - mean
    axes = np.linalg.eigh(centred.T @ centred)[1][:, :-3:-1]
    largest = np.abs(axes).argmax(axis=0)
    return Plane(mean, axes * np.sign(axes[largest, [0, 1]]))
