"""LoraRetriever: the experts whose samples resemble the query."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lora.catalogue import param
from lora.prototypes.centroid import centroid
from lora.routers import ROUTERS, Floats


@dataclass(frozen=True)
class LoraRetrieverParams:
    """Parameters of `LoraRetriever`."""

    temperature: float | None = param(
        0.1, "softmax temperature of the weights; null gives every match the same", above=0
    )
    min_score: float | None = param(None, "cosine below which an expert is no match", minimum=-1, maximum=1)


@ROUTERS.register(
    "lora_retriever",
    params=LoraRetrieverParams,
    title="LoraRetriever",
    summary="Ranks experts by the cosine of the query with the mean of their samples.",
    source="LoraRetriever, arXiv:2402.09997; compares by cosine, as the paper says and its code does not",
    needs=("samples",),
    prototype="centroid",
    accepts=["text", "texts", "examples"],
    k=3,
)
class LoraRetriever:
    """Score = cosine with the expert's centroid; weights = softmax(score / temperature)."""

    def __init__(self, params: LoraRetrieverParams) -> None:
        self.params = params

    def query(self, embeddings: Floats) -> Floats:
        """Return the normalised mean of the query's unit rows (m, dim): of a single text, the text itself."""
        return centroid(embeddings)

    def keep(self, scores: Floats) -> NDArray[np.bool_]:
        """Return which scores (k,) reach `min_score`."""
        floor = -np.inf if self.params.min_score is None else self.params.min_score
        return scores >= floor

    def weigh(self, scores: Floats) -> Floats:
        """Return softmax(scores / temperature), or 1/k each; (k,), float32, sum 1."""
        logits = np.zeros(len(scores))
        if self.params.temperature is not None and len(scores):
            # the difference first: a tiny temperature must not overflow
            logits = (scores.astype(np.float64) - scores.max()) / self.params.temperature
        weights = np.exp(logits)
        return (weights / weights.sum()).astype(np.float32) if len(scores) else weights.astype(np.float32)
