"""Routers that look inside: what enters the modules of the base model against vectors of the adapters. numpy only.

Each is a class, registered with the traits `prototype` (the vectors that it compares with), `accepts`, `k` and
`when`, as text routers are, and made from its params. It ranks experts for one query by `rank`, and `keep` and `weigh`
say which of the ranked are matches and with what weights.

Arrow, SpectR and PHATGOOSE choose experts for every token in every module while the model runs; `TokenRouter` has that
choice, for a look at single decisions. Their ranking of whole experts is our construction and in none of the papers: an
expert's share of the weight above an equal share, averaged over tokens and over the modules it has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lora.catalogue import Catalogue, param
from lora.errors import UnknownRouter
from lora.scores import reached, softmax

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
States = Mapping[str, Floats]
"""What enters the modules: path → (t, d_in), one row per token."""

Vectors = Mapping[str, Floats]
"""An expert's prototypes: path → (d_in,) or (r, d_in)."""


@dataclass(frozen=True)
class Baselines:
    """What an expert's vectors give on texts that are about nothing in particular.

    Attributes:
        modules: by path, mean μ and standard deviation σ over the texts.
        spread: standard deviation over the texts of the mean z of all modules, which go up and down together.
    """

    modules: Mapping[str, tuple[float, float]]
    spread: float


@dataclass(frozen=True)
class Expert:
    """What is known of an expert; `baselines` only where the router says so by `needs_baselines`."""

    vectors: Vectors
    baselines: Baselines | None = None


@dataclass(frozen=True)
class Ranking:
    """How well experts suit a query.

    Attributes:
        scores: (n,), higher is better; -inf where an expert has none of the modules at hand.
        paths: of the modules, m.
        parts: (m, n), what each module says; nan where an expert has nothing there. A score is the mean of its column.
    """

    scores: Doubles
    paths: Sequence[str]
    parts: Doubles

    @classmethod
    def of(cls, paths: Sequence[str], parts: Doubles) -> Ranking:
        """Return the ranking by the mean over the modules that each expert has."""
        known = ~np.isnan(parts)
        sums, counts = np.where(known, parts, 0).sum(0), known.sum(0)
        return cls(np.where(counts > 0, sums / np.maximum(counts, 1), -np.inf), paths, parts)


class ExpertParams(Protocol):
    """What the params of every router have."""

    @property
    def temperature(self) -> float:
        """Softmax temperature of the weights over whole experts."""

    @property
    def min_score(self) -> float | None:
        """Score below which an expert is no match."""


class ModuleRouter(ABC):
    """What every registered class offers."""

    needs_baselines = False

    def __init__(self, params: ExpertParams) -> None:
        self.params = params

    @property
    def counts_samples(self) -> bool:
        """Whether what samples say shifts the scores, as `arrow_global.by_samples` has it."""
        return False

    @abstractmethod
    def rank(self, states: States, experts: Sequence[Expert]) -> Ranking:
        """Return how well experts suit what the model reads; modules that `states` lacks do not count."""

    def keep(self, scores: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return which scores (k,) are finite and reach `min_score`."""
        kept: NDArray[np.bool_] = np.isfinite(scores) & reached(scores, self.params.min_score)
        return kept

    def weigh(self, scores: NDArray[np.floating]) -> Floats:
        """Return softmax(scores / temperature), (k,)."""
        return softmax(scores, self.params.temperature)


@dataclass(frozen=True)
class TokenParams:
    """Parameters of routers that choose experts for every token."""

    top_k: int = param(4, "how many experts share a token; fewer where fewer adapt the module", minimum=1, maximum=100)
    router_temperature: float = param(1.0, "softmax temperature of a token's choice", above=0)
    temperature: float = param(0.05, "softmax temperature of the weights over whole experts", above=0)
    min_score: float | None = param(None, "share above an equal one, below which an expert is no match")


class TokenRouter(ModuleRouter):
    """A router that chooses experts for every token in every module, independently."""

    params: TokenParams

    @abstractmethod
    def compare(self, x: Floats, vectors: Floats) -> Doubles:
        """Return the scores (t,) of one expert in one module; x is (t, d_in)."""

    def token_weights(self, scores: Doubles) -> Doubles:
        """Return the weights of a module's experts, (t, n), of which the `top_k` best of each row are above 0.

        Args:
            scores: (t, n); -inf where an expert does not take part. A row without any has weights of 0.
        """
        kept = np.argsort(-scores, axis=1, kind="stable")[:, : self.params.top_k]
        chosen = np.full_like(scores, -np.inf)
        np.put_along_axis(chosen, kept, np.take_along_axis(scores, kept, axis=1), axis=1)
        best = chosen.max(axis=1, keepdims=True)
        weights = np.exp((chosen - np.where(np.isfinite(best), best, 0)) / self.params.router_temperature)
        total = weights.sum(axis=1, keepdims=True)
        found: Doubles = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
        return found

    def rank(self, states: States, experts: Sequence[Expert]) -> Ranking:
        """Return the mean over tokens and modules of each expert's weight above an equal share of all its rivals."""
        paths = sorted({path for expert in experts for path in expert.vectors} & states.keys())
        parts = np.full((len(paths), len(experts)), np.nan)
        for row, path in enumerate(paths):
            takes_part = [
                i for i, expert in enumerate(experts) if path in expert.vectors and expert.vectors[path].any()
            ]
            if takes_part:
                compared = [self.compare(states[path], experts[i].vectors[path]) for i in takes_part]
                weights = self.token_weights(np.stack(compared, axis=1))
                parts[row, takes_part] = weights.mean(axis=0) - 1 / len(takes_part)
        return Ranking.of(paths, parts)


def unit_rows(x: NDArray[np.floating]) -> Doubles:
    """Return rows (n, d) of length 1, float64; rows of zeros stay."""
    wide = x.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.where(lengths > 0, lengths, 1)


MODULE_ROUTERS = Catalogue("router", __name__, unknown=UnknownRouter)
