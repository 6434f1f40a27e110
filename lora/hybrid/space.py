"""The hybrid space: class means under one shared, frozen whitening of meaning and surface, one inner product each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora.errors import LoraError
from lora.hybrid.abstention import Abstention, Judgement, Nearness
from lora.hybrid.features import CHARS, EDGES, FORMATS, Described, Inverse, project
from lora.hybrid.whitening import Whitening
from lora.prototypes.samples import check_rows

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

# Weight of the four channels: encoder, characters, edges, format.
WEIGHTS = (3.0, 1.0, 0.7, 0.22)
# Of the encoder's channel, the part of the squared length that is the sentence embedding's.
MEANING = 0.3
CLIP = 5.0
NOVELTIES = 4


@dataclass(frozen=True)
class Surface:
    """What turns texts into their surface channels, frozen.

    Attributes:
        chars, edges: document frequencies of the two hashed channels.
        mean, spread: (FORMATS,) of the format numbers.
    """

    chars: Inverse
    edges: Inverse
    mean: Floats
    spread: Floats

    @cached_property
    def _tables(self) -> tuple[Singles, Singles]:
        return self.chars.table(), self.edges.table()

    def rows(self, texts: Sequence[str]) -> Singles:
        """Return the surface channels of n texts, (n, CHARS + EDGES + FORMATS), weighted."""
        return self.described(texts, judged=0)[0]

    def described(self, texts: Sequence[str], seen: int = 0, judged: int | None = None) -> tuple[Singles, Floats]:
        """Return the rows of n texts, and the novelty of the first m of them, (m, NOVELTIES).

        Args:
            seen: how often the fit counted each of the texts itself: 0 or 1.
            judged: m; all unless it is given.
        Returns: novelty is the share of the idf of a text's character n-grams, and of its edge tokens, that is in
            those that no other text had when the space was fitted, and how rare its characters' pairs and triples were.
        """
        rows = np.empty((len(texts), CHARS + EDGES + FORMATS), np.float32)
        novelty = np.empty((len(texts[:judged]), NOVELTIES))
        idf, edge_idf = self._tables
        for row, new, text in zip_longest(rows, novelty, map(Described.of, texts)):
            row[:CHARS] = WEIGHTS[1] * project(text.chars, idf, CHARS)
            row[CHARS : CHARS + EDGES] = WEIGHTS[2] * project(text.edges, edge_idf, EDGES)
            row[CHARS + EDGES :] = WEIGHTS[3] * np.clip((text.numbers - self.mean) / self.spread, -CLIP, CLIP)
            if new is not None:
                new[:] = (
                    self.chars.unseen(idf[text.chars.ids], seen),
                    self.edges.unseen(edge_idf[text.edges.ids], seen),
                    *(self.chars.rarity(idf[ids], seen) for ids in text.grams[1:3]),
                )
        return rows, novelty


@dataclass(frozen=True)
class Query:
    """A text in the space.

    Attributes:
        rows: (spans, d + 1), [z; 1] of its spans, the whole first.
        novelty: (NOVELTIES,) of the whole, of `Surface.described`.
    """

    rows: Singles
    novelty: Floats


@dataclass(frozen=True)
class HybridSpace:
    """A frozen version of the space. Experts have one row each; their scores depend on nobody else's.

    With z = R'(x - centre) of the features x, halfway to a usual length (`Whitening.place`), the score of a query row
    [z; 1] for an expert row [z̄; -|z̄|²/2] is the log density of a Gaussian around the expert's mean, up to a number that
    is the same for all experts:
    <[z; 1], [z̄; -|z̄|²/2]> = -|z - z̄|²/2 + |z|²/2.

    Attributes:
        surface, whitening: see there; centre: (d,) mean of all features at the fit.
        temperature: T > 0 of the posterior softmax(score / T), calibrated by leave-one-out.
        abstention: when no expert fits.
        samples: number of sample texts that the fit saw.
    """

    surface: Surface
    centre: Singles
    whitening: Whitening
    temperature: float
    abstention: Abstention
    samples: int

    @property
    def width(self) -> int:
        """Length of a row, d + 1."""
        return len(self.centre) + 1

    @property
    def dim(self) -> int:
        """Length of the rows of `encoded` that it is made for."""
        return len(self.centre) - CHARS - EDGES - FORMATS

    @cached_property
    def digest(self) -> str:
        """sha256 over all arrays: equal spaces have equal ones."""
        digest = hashlib.sha256()
        for name, array in sorted(self.to_arrays().items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def space_id(self, encoder: str) -> str:
        """Return the name of this version over an encoder's space."""
        return f"hybrid-{self.digest[:12]}@{encoder}"

    def whitened(self, embeddings: Singles, texts: Sequence[str]) -> Floats:
        """Return z of n texts, (n, d).

        Args:
            embeddings: (n, dim), rows of `encoded`, of `texts` as they are here.
            texts: n >= 1 texts, unwrapped (`wrappers.unwrap` or `wrappers.spans`).
        Raises: LoraError: the rows are no unit vectors of this encoder, or there is not one for each text.
        """
        return self._placed(embeddings, texts, judged=0)[0]

    def _placed(self, embeddings: Singles, texts: Sequence[str], judged: int) -> tuple[Floats, Floats]:
        check_rows(embeddings)
        if embeddings.shape != (len(texts), self.dim):
            raise LoraError(f"{len(texts)} texts need embeddings ({len(texts)}, {self.dim}), not {embeddings.shape}.")
        rows, novelty = self.surface.described(texts, judged=judged)
        return self.whitening.place(joint(embeddings, rows) - self.centre), novelty

    def expert_row(self, embeddings: Singles, texts: Sequence[str]) -> Singles:
        """Return the row [z̄; -|z̄|²/2] of an expert, (d + 1,), from all its samples; as `whitened`."""
        mean = self.whitened(embeddings, texts).mean(axis=0)
        return np.append(mean, -0.5 * np.square(mean).sum()).astype(np.float32)

    def query(self, embeddings: Singles, texts: Sequence[str]) -> Query:
        """Return a text as its spans, the whole first, are in the space; as `whitened`."""
        z, novelty = self._placed(embeddings, texts, judged=1)
        return Query(np.hstack([z, np.ones((len(z), 1))]).astype(np.float32), novelty[0])

    def combine(self, query: Query, products: Floats) -> Floats:
        """Return the scores (n,) of n experts for a query from the inner products of its spans.

        Args:
            products: (spans, n), inner products with the experts' rows.
        Returns: the mean of two log densities, <= 0: of the whole, and T · log mean exp(density / T) over all spans.
            The second finds a question inside other words; the first holds on to texts that are one question.
        """
        densities = products - 0.5 * _squares(query.rows)[:, None]
        top = densities.max(axis=0)
        any_span = top + self.temperature * np.log(np.exp((densities - top) / self.temperature).mean(axis=0))
        scores: Floats = (densities[0] + any_span) / 2
        return scores

    def posterior(self, scores: Floats, temperature: float | None = None) -> Floats:
        """Return softmax(scores / T), (k,); T is the calibrated one unless it is given."""
        scaled = (scores - scores.max(initial=-np.inf)) / (temperature or self.temperature)
        weights = np.exp(scaled)
        shares: Floats = weights / weights.sum() if len(scores) else weights
        return shares

    def judge(self, scores: Floats, query: Query, best: NDArray[np.floating]) -> Judgement:
        """Return whether the expert of a query's task may be there; `abstention.threshold` is of what is familiar.

        Args:
            scores: (k,), k >= 1, of the best experts, falling, as many as there are up to `abstention.DEPTH`.
            best: (d + 1,), the row of the best expert.
        """
        z, mean = query.rows[0, :-1].astype(np.float64), best[:-1].astype(np.float64)
        starts = channels(self.dim)[:-1]
        inner, squares, means = (np.add.reduceat(product, starts) for product in (z * mean, z * z, mean * mean))
        nearness = Nearness(scores[None], inner[None], squares[None], means[None], query.novelty[None])
        return self.abstention.judge(nearness)[0]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything as named arrays, for a safetensors file."""
        surface = self.surface
        return {
            "chars.ids": surface.chars.ids.astype(np.int32),
            "chars.frequencies": surface.chars.frequencies.astype(np.int32),
            "edges.ids": surface.edges.ids.astype(np.int32),
            "edges.frequencies": surface.edges.frequencies.astype(np.int32),
            "format.mean": surface.mean,
            "format.spread": surface.spread,
            "centre": self.centre,
            "whitening.basis": self.whitening.basis,
            "whitening.gains": self.whitening.gains,
            "numbers": np.array([self.whitening.floor, self.temperature, surface.chars.texts, self.samples]),
            "abstention": self.abstention.to_array(),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> HybridSpace:
        """Return the space that `to_arrays` wrote."""
        floor, temperature, texts, samples = arrays["numbers"].tolist()

        def inverse(channel: str) -> Inverse:
            ids, frequencies = arrays[f"{channel}.ids"], arrays[f"{channel}.frequencies"]
            return Inverse(int(texts), ids.astype(np.uint64), frequencies.astype(np.int64))

        return cls(
            surface=Surface(inverse("chars"), inverse("edges"), arrays["format.mean"], arrays["format.spread"]),
            centre=arrays["centre"],
            whitening=Whitening(floor, arrays["whitening.basis"].astype(np.float32), arrays["whitening.gains"]),
            temperature=temperature,
            abstention=Abstention.from_array(arrays["abstention"]),
            samples=int(samples),
        )


def encoded(embeddings: Singles, middle: Singles) -> Singles:
    """Return what the space takes of an encoder for n texts, unit rows (n, dim + width).

    Args:
        embeddings: (n, dim), unit sentence embeddings: what a text means.
        middle: (n, width), unit means of its tokens' states halfway through the encoder, where its wording still is.
            Layers in the middle tell kinds of texts apart better than the last (Skean et al. 2025, arXiv:2502.02013).
    """
    return np.hstack([np.float32(MEANING**0.5) * embeddings, np.float32((1 - MEANING) ** 0.5) * middle])


def joint(embeddings: Singles, surface: Singles) -> Singles:
    """Return the features x of n texts, (n, d): the encoder's and the surface channels side by side."""
    return np.hstack([np.float32(WEIGHTS[0]) * embeddings, surface])


def channels(dim: int) -> NDArray[np.int64]:
    """Return where encoder, characters, edges and format begin and end in x, (5,)."""
    return np.cumsum([0, dim, CHARS, EDGES, FORMATS])


def _squares(queries: Singles) -> Floats:
    squares: Floats = np.square(queries[:, :-1].astype(np.float64)).sum(axis=1)
    return squares
