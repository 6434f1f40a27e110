"""AdapterSoup: the experts nearest to a handful of examples, mixed in equal parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lora.catalogue import param
from lora.prototypes.centroid import centroid
from lora.routers import ROUTERS, Floats


@dataclass(frozen=True)
class AdapterSoupParams:
    """Parameters of `AdapterSoup`."""

    min_score: float | None = param(
        None, "cosine below which an expert is no match, beyond being positive", minimum=-1, maximum=1
    )


@ROUTERS.register(
    "adapter_soup",
    params=AdapterSoupParams,
    title="AdapterSoup",
    summary="Mixes in equal parts the experts whose samples resemble the examples, mean with mean.",
    source="AdapterSoup, arXiv:2302.07027, selection by sentence similarity",
    needs=("samples",),
    prototype="centroid",
    accepts=["examples", "text", "texts"],
    k=5,
)
class AdapterSoup:
    """Score = cosine of the two means; the best with a positive score are averaged uniformly."""

    def __init__(self, params: AdapterSoupParams) -> None:
        self.params = params

    def query(self, embeddings: Floats) -> Floats:
        """Return the normalised mean of the examples' unit rows (m, dim)."""
        return centroid(embeddings)

    def keep(self, scores: Floats) -> NDArray[np.bool_]:
        """Return which scores (k,) are positive and reach `min_score`."""
        floor = -np.inf if self.params.min_score is None else self.params.min_score
        kept: NDArray[np.bool_] = (scores > 0) & (scores >= floor)
        return kept

    def weigh(self, scores: Floats) -> Floats:
        """Return 1/k each; (k,), float32."""
        return np.full(len(scores), 1 / max(len(scores), 1), dtype=np.float32)
