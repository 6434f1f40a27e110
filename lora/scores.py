"""What routers do with the scores of what they found."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def reached(scores: NDArray[np.floating], floor: float | None) -> NDArray[np.bool_]:
    """Return which scores (k,) reach a floor; all of them where there is none."""
    kept: NDArray[np.bool_] = scores >= (-np.inf if floor is None else floor)
    return kept


def equal(scores: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return 1/k each, (k,)."""
    return np.full(len(scores), 1 / max(len(scores), 1), dtype=np.float32)


def softmax(scores: NDArray[np.floating], temperature: float) -> NDArray[np.float32]:
    """Return softmax(scores / temperature), (k,): >= 0, with sum 1."""
    if not len(scores):
        return equal(scores)
    # the difference first: a tiny temperature must not overflow
    weights = np.exp((scores.astype(np.float64) - scores.max()) / temperature)
    found: NDArray[np.float32] = (weights / weights.sum()).astype(np.float32)
    return found


def shares(scores: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return scores clipped at 0, divided by their sum, (k,); 1/k each where none is positive."""
    positive = np.maximum(scores.astype(np.float64), 0)
    if not positive.any():
        return equal(scores)
    # the largest first: a sum of tiny numbers must not underflow
    positive /= positive.max()
    found: NDArray[np.float32] = (positive / positive.sum()).astype(np.float32)
    return found
