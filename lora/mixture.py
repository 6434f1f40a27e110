"""Gaussian mixtures with diagonal covariances, fitted by expectation maximisation from given means."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

# Added to every variance, of coordinates whose spread is about 1/dimension and more.
FLOOR = 1e-4


@dataclass(frozen=True)
class Mixture:
    """Attributes: log_weights (c,); means and variances, (c, dim)."""

    log_weights: Doubles
    means: Doubles
    variances: Doubles

    def posteriors(self, points: Doubles) -> Doubles:
        """Return the probability of each component given each point, (n, c)."""
        precisions = 1 / self.variances
        distances = (
            points**2 @ precisions.T
            - 2 * points @ (self.means * precisions).T
            + (self.means**2 * precisions).sum(axis=1)
        )
        logits = self.log_weights - 0.5 * (distances + np.log(self.variances).sum(axis=1))
        likelihoods = np.exp(logits - logits.max(axis=1, keepdims=True))
        posteriors: Doubles = likelihoods / likelihoods.sum(axis=1, keepdims=True)
        return posteriors


def fit_mixture(points: Doubles, means: Doubles, steps: int) -> Mixture:
    """Return the mixture after some steps of expectation maximisation.

    Args:
        points: (n, dim). means: (c, dim), those of the components to begin with, whose weights are then equal and
            whose variances are those of all points.
    """
    variances = np.tile(points.var(axis=0) + FLOOR, (len(means), 1))
    mixture = Mixture(np.full(len(means), -np.log(len(means))), means, variances)
    for _ in range(steps):
        mixture = _maximised(points, mixture.posteriors(points))
    return mixture


def _maximised(points: Doubles, posteriors: Doubles) -> Mixture:
    # a component that no point belongs to keeps a mass of its own, so that nothing is divided by zero
    masses = posteriors.sum(axis=0) + 10 * np.finfo(np.float64).eps
    means = posteriors.T @ points / masses[:, None]
    squares = posteriors.T @ points**2 / masses[:, None]
    return Mixture(np.log(masses / masses.sum()), means, np.maximum(squares - means**2, 0) + FLOOR)


def principal_axes(points: Doubles, count: int) -> Doubles:
    """Return the directions (dim, <= count) in which points (n, dim) spread most, with canonical signs."""
    centred = points - points.mean(axis=0)
    axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :count]
    largest = np.abs(axes).argmax(axis=0)
    canonical: Doubles = axes * np.sign(axes[largest, np.arange(axes.shape[1])])
    return canonical
