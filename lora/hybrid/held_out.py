"""How texts lie to experts whose means have not seen them, in pools of several sizes: what calibration learns from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lora.hybrid.abstention import DEPTH, Nearness

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Besides all experts: pools as small as those of people who begin.
POOLS = (12, 4)


@dataclass(frozen=True)
class HeldOut:
    """n texts against K experts, each text left out of its own expert's mean.

    Attributes:
        inner: (c, n, K) inner products by channel; squares: (c, n) |z|² of the texts.
        means: (c, K) |z̄|² of the experts; own_means: (c, n) that of each text's own one, without it.
        own: (n,) columns of the own experts, -1 where there is none.
        novelty: (n, m).
    """

    inner: Floats
    squares: Floats
    means: Floats
    own_means: Floats
    own: Ints
    novelty: Floats

    def densities(self) -> Floats:
        """Return the log densities -|z - z̄|²/2, (n, K)."""
        found: Floats = self.inner.sum(axis=0) - 0.5 * (self.squares.sum(axis=0)[:, None] + self.means.sum(axis=0))
        rows = np.flatnonzero(self.own >= 0)
        own = self.own[rows]
        found[rows, own] += 0.5 * (self.means[:, own] - self.own_means[:, rows]).sum(axis=0)
        return found

    def nearness(self, kept: Bools) -> Nearness:
        """Return how the texts lie to the best of the experts that a mask (n, K) keeps."""
        scores = np.where(kept, self.densities(), -np.inf)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
        every, best = np.arange(len(order)), order[:, 0]
        means = np.where(best == self.own, self.own_means, self.means[:, best])
        return Nearness(
            scores=np.take_along_axis(scores, order, axis=1),
            inner=self.inner[:, every, best].T,
            squares=self.squares.T,
            means=means.T,
            novelty=self.novelty,
        )

    def evidence(self, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Return what pools of several sizes say of each text: those with its own expert, and the same without it."""
        present, absent = [], []
        for kept in self._pools(rng):
            if (self.own >= 0).all():
                kept[np.arange(len(kept)), self.own] = True
                present.append(self.nearness(kept).evidence())
                kept[np.arange(len(kept)), self.own] = False
            absent.append(self.nearness(kept).evidence())
        return np.vstack(present) if present else np.empty((0, absent[0].shape[1])), np.vstack(absent)

    def _pools(self, rng: np.random.Generator) -> Iterator[Bools]:
        shape = self.inner.shape[1:]
        yield np.ones(shape, bool)
        for size in POOLS:
            if size < shape[1]:
                yield rng.random(shape).argsort(axis=1) < size


@dataclass(frozen=True)
class Means:
    """Whitened means (K, d) of experts, of how many texts each is, (K,), and where channels begin and end, (c + 1,)."""

    means: Floats
    sizes: Floats
    channels: Ints

    @classmethod
    def of(cls, z: Floats, labels: Ints, channels: Ints) -> Means:
        """Return the means of the rows of each label 0..K-1."""
        return cls(*class_means(z, labels), channels)

    def and_more(self, others: Means) -> Means:
        """Return these experts and others behind them."""
        sizes = np.concatenate([self.sizes, others.sizes])
        return Means(np.vstack([self.means, others.means]), sizes, self.channels)

    def against(self, z: Floats, novelty: Floats, own: Ints | None = None, seen: Floats | None = None) -> HeldOut:
        """Return how whitened texts (n, d) lie to the experts.

        Args:
            novelty: (n, m). own: (n,) their own experts, of two texts or more; None: they have none.
            seen: (n, d) what each own mean has of the text, by default the text.
        """
        parts = [slice(a, b) for a, b in zip(self.channels, self.channels[1:], strict=False)]
        inner = np.stack([z[:, part] @ self.means[:, part].T for part in parts])
        squares, means = _squares(z, parts), _squares(self.means, parts)
        if own is None:
            return HeldOut(inner, squares, means, np.zeros_like(squares), np.full(len(z), -1), novelty)
        seen = z if seen is None else seen
        every, size = np.arange(len(z)), self.sizes[own]
        # the mean of the others is (n · mean - text) / (n - 1)
        shared = np.stack([(seen[:, part] * self.means[own][:, part]).sum(axis=1) for part in parts])
        own_means = (size**2 * means[:, own] - 2 * size * shared + _squares(seen, parts)) / (size - 1) ** 2
        both = np.stack([(z[:, part] * seen[:, part]).sum(axis=1) for part in parts])
        inner[:, every, own] = (size * inner[:, every, own] - both) / (size - 1)
        return HeldOut(inner, squares, means, own_means, own, novelty)


def class_means(rows: Floats, labels: Ints) -> tuple[Floats, Floats]:
    """Return the mean of the rows of each label 0..K-1, (K, d), and how many there are, (K,)."""
    sizes = np.bincount(labels).astype(np.float64)
    sums: Floats = np.zeros((len(sizes), rows.shape[1]))
    np.add.at(sums, labels, rows)
    means: Floats = sums / sizes[:, None]
    return means, sizes


def _squares(rows: Floats, parts: list[slice]) -> Floats:
    """Return the squared lengths by channel, (c, n)."""
    return np.stack([np.square(rows[:, part]).sum(axis=1) for part in parts])
