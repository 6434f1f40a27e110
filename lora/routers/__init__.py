"""Routers: the rules that turn a query into matches, one file per router. numpy only.

A router is a class, registered with the traits `prototype` (the kind whose vectors it searches), `accepts`
(the forms of a query it understands) and `k` (its default number of matches). It is made from its params.

Every router has `keep(scores)`, which of the found experts are matches at all, (k,) bool, and `weigh(scores)`, the
weights of those that are, (k,), >= 0, with sum 1. How it scores depends on `prototype`:

- `centroid`: `query(embeddings)` turns the unit rows of one query, (m, dim), into one unit vector (dim,), and an
  expert's score is the inner product with its centroid;
- `samples`: a `SampleRouter`, which scores an expert by all its samples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lora.catalogue import Catalogue
from lora.errors import UnknownRouter
from lora.prototypes.centroid import centroid
from lora.scores import equal, reached, softmax

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]


class Chooser(Protocol):
    """What every registered class offers."""

    def keep(self, scores: Floats) -> NDArray[np.bool_]:
        """Return which experts are matches, given their scores (k,)."""

    def weigh(self, scores: Floats) -> Floats:
        """Return the weights (k,) of the matches; they sum to 1."""


class Router(Chooser, Protocol):
    """A router that compares one vector with one per expert."""

    def query(self, embeddings: Floats) -> Floats:
        """Return the unit vector (dim,) to search with."""


class CosineParams(Protocol):
    """What the params of a `CosineRouter` have."""

    @property
    def temperature(self) -> float | None:
        """Softmax temperature of the weights; None gives every match the same."""

    @property
    def min_score(self) -> float | None:
        """Cosine below which an expert is no match."""


class CosineRouter:
    """A `Router` whose weights are a softmax over the cosines with the experts' centroids."""

    def __init__(self, params: CosineParams) -> None:
        self.params = params

    def query(self, embeddings: Floats) -> Floats:
        """Return the normalised mean of the query's unit rows (m, dim): of a single text, the text itself."""
        return centroid(embeddings)

    def keep(self, scores: Floats) -> NDArray[np.bool_]:
        """Return which scores (k,) reach `min_score`."""
        return reached(scores, self.params.min_score)

    def weigh(self, scores: Floats) -> Floats:
        """Return softmax(scores / temperature), or 1/k each; (k,), float32, sum 1."""
        temperature = self.params.temperature
        return equal(scores) if temperature is None else softmax(scores, temperature)


@dataclass(frozen=True)
class TextSet:
    """Texts of one task: those of a query, or the samples of an expert.

    Attributes:
        rows: (n, dim), their unit vectors.
        texts: the texts themselves; empty where only vectors are known.
    """

    rows: Floats
    texts: tuple[str, ...] = ()


class SampleRouter(ABC):
    """A router that compares every text of a query with every sample of an expert.

    Attributes:
        shortlist: how many of the best `rescore` sees; 0 where the search has the last word.
        reads_texts: whether `rescore` needs the texts themselves.
    """

    shortlist = 0
    reads_texts = False

    @abstractmethod
    def compare(self, similarities: NDArray[np.floating], starts: Ints) -> Doubles:
        """Return what each text says of each expert, which depends on no other expert.

        Args:
            similarities: (m, total), cosines of m texts with the samples of all experts, expert after expert.
            starts: (experts,), the first column of each; every expert has one at least.
        Returns: (m, experts).
        """

    @abstractmethod
    def decide(self, compared: Doubles) -> Doubles:
        """Return the score of each expert, (experts,), from what `compare` returned for all."""

    def score(self, similarities: NDArray[np.floating], starts: Ints) -> Doubles:
        """Return the score of each expert, (experts,)."""
        return self.decide(self.compare(similarities, starts))

    def rescore(self, query: TextSet, experts: Sequence[TextSet]) -> Doubles:
        """Return the scores of the shortlisted experts, (n,), which count from here on."""
        raise NotImplementedError

    @abstractmethod
    def keep(self, scores: Floats) -> NDArray[np.bool_]:
        """Return which experts are matches, given their scores (k,)."""

    @abstractmethod
    def weigh(self, scores: Floats) -> Floats:
        """Return the weights (k,) of the matches; they sum to 1."""


def lengths_of(starts: Ints, total: int) -> Ints:
    """Return how many of `total` columns each expert has, (experts,)."""
    return np.diff(np.append(starts, total))


ROUTERS = Catalogue("router", __name__, unknown=UnknownRouter)
