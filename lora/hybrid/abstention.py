"""When no expert fits: how a text lies to the best experts, and how unlike all texts that the space knows it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# How many of the best scores tell whether the best one stands out.
DEPTH = 4
# Share of good texts, and parts of such, below the threshold.
REFUSED = 0.05
RIDGE = 1e-3
TINY = 1e-9


@dataclass(frozen=True)
class Nearness:
    """How n texts lie to their best experts.

    Attributes:
        scores: (n, k) log densities of the k >= 1 best experts, falling.
        inner: (n, c) inner products with the best expert by channel, whitened; squares: |z|² and
        means: |z̄|² by channel, (n, c).
        novelty: (n, m) of the texts, of `Surface`.
    """

    scores: Floats
    inner: Floats
    squares: Floats
    means: Floats
    novelty: Floats

    def evidence(self) -> Floats:
        """Return what tells whether any expert fits, (n, 11 + 2c - 2 + m).

        Returns: log |z|², the best expert's gain over the centre of all texts and its margins over the next ones, per
            |z|²; cosines with the best expert, of all and by channel; log |z̄|², log |z|² by channel; novelty. The
            centre stands in for experts that there are not, so that a pool of one has margins, too.
        """
        square = self.squares.sum(axis=1) + TINY
        mean = self.means.sum(axis=1) + TINY
        gains = np.maximum(self.scores[:, :DEPTH] + 0.5 * square[:, None], 0) / square[:, None]
        gains = np.pad(gains, ((0, 0), (0, DEPTH - gains.shape[1])))
        columns = [
            np.log(square)[:, None],
            gains[:, :1],
            gains[:, :1] - gains[:, 1:],
            (self.inner.sum(axis=1) / np.sqrt(square * mean))[:, None],
            self.inner / np.sqrt(self.squares * self.means + TINY),
            np.log(mean)[:, None],
            np.log(self.squares + TINY),
            self.novelty,
        ]
        return np.hstack(columns)


@dataclass(frozen=True)
class Logistic:
    """A logistic model of rows (n, d): mean, spread and weights (d,), and a bias."""

    mean: Floats
    spread: Floats
    weights: Floats
    bias: float

    def logits(self, rows: Floats) -> Floats:
        """Return the log odds, (n,)."""
        found: Floats = (rows - self.mean) / self.spread @ self.weights + self.bias
        return found

    @classmethod
    def fit(cls, groups: list[tuple[Floats, bool, float]], steps: int = 25) -> Logistic:
        """Fit by Newton's method, with a ridge.

        Args:
            groups: (rows (n, d), label, share): what share of all a group counts for, however many rows it has.
        """
        groups = [group for group in groups if len(group[0])]
        rows = np.vstack([rows for rows, _, _ in groups])
        labels = np.concatenate([np.full(len(rows), float(label)) for rows, label, _ in groups])
        shares = np.concatenate([np.full(len(rows), share / len(rows)) for rows, _, share in groups])
        mean = np.average(rows, axis=0, weights=shares)
        spread = np.sqrt(np.average(np.square(rows - mean), axis=0, weights=shares)) + TINY
        design = np.hstack([(rows - mean) / spread, np.ones((len(rows), 1))])
        penalty = RIDGE * shares.sum() * np.eye(design.shape[1])
        penalty[-1, -1] = TINY
        weights = np.zeros(design.shape[1])
        for _ in range(steps):
            p = sigmoid(design @ weights)
            gradient = design.T @ (shares * (p - labels)) + penalty @ weights
            hessian = (design * (shares * p * (1 - p))[:, None]).T @ design + penalty
            weights = weights - np.linalg.solve(hessian, gradient)
        return cls(mean, spread, weights[:-1], float(weights[-1]))


@dataclass(frozen=True)
class Examples:
    """Evidence of texts of which it is known whether an expert fits: rows (n, d) each.

    Attributes:
        present: with their own expert in the pool; absent: without it.
        parts_present, parts_absent: the same of parts of texts.
        far_present: far texts with an expert for their kind; far: without one.
    """

    present: Floats
    absent: Floats
    parts_present: Floats
    parts_absent: Floats
    far_present: Floats
    far: Floats


@dataclass(frozen=True)
class Judgement:
    """What is thought of a text.

    Attributes:
        fits: probability that the expert of its task is there.
        familiar: probability that it is of a kind that any of the experts could be for.
    """

    fits: float
    familiar: float


@dataclass(frozen=True)
class Abstention:
    """Two logistic models: is the expert of a text's task there, and is the text one that any expert could be for.

    Two, because a question whose instruction was left out looks like nobody's: the first cannot tell it from one of a
    missing task, but the second can tell it from other languages, code and noise.

    Attributes:
        present, familiar: the models.
        threshold: probability of the second below which REFUSED of the good texts fall, whole or in part.
    """

    present: Logistic
    familiar: Logistic
    threshold: float

    def judge(self, nearness: Nearness) -> list[Judgement]:
        """Return what is thought of each text."""
        rows = nearness.evidence()
        found = zip(
            sigmoid(self.present.logits(rows)).tolist(), sigmoid(self.familiar.logits(rows)).tolist(), strict=True
        )
        return [Judgement(fits, familiar) for fits, familiar in found]

    @classmethod
    def fit(cls, seen: Examples) -> Abstention:
        """Learn both models and the threshold."""
        present = Logistic.fit(
            [(seen.present, True, 0.4), (seen.far_present, True, 0.1), (seen.absent, False, 0.5)],
        )
        familiar = Logistic.fit(
            [
                (seen.present, True, 0.2),
                (seen.absent, True, 0.15),
                (seen.parts_present, True, 0.1),
                (seen.parts_absent, True, 0.1),
                (seen.far_present, True, 0.05),
                (seen.far, False, 0.3),
            ]
        )
        good = familiar.logits(np.vstack([seen.present, seen.parts_present]))
        return cls(present, familiar, float(sigmoid(np.quantile(good, [REFUSED]))[0]))

    def to_array(self) -> Floats:
        """Return (6, d + 1): mean, spread and weights of both models, each with one more number behind it."""
        models = [self.present, self.familiar]
        columns = np.stack([part for model in models for part in (model.mean, model.spread, model.weights)])
        more = [self.present.bias, self.threshold, 0.0, self.familiar.bias, 0.0, 0.0]
        return np.hstack([columns, np.array(more)[:, None]])

    @classmethod
    def from_array(cls, array: Floats) -> Abstention:
        """Return what `to_array` wrote."""
        rows, more = array[:, :-1], array[:, -1].tolist()
        present = Logistic(rows[0], rows[1], rows[2], more[0])
        return cls(present, Logistic(rows[3], rows[4], rows[5], more[3]), more[1])


def sigmoid(logits: Floats) -> Floats:
    """Return 1 / (1 + exp(-logits))."""
    found: Floats = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
    return found
