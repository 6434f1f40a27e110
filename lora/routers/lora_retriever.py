"""LoraRetriever: the experts whose samples resemble the query."""

from __future__ import annotations

from dataclasses import dataclass

from lora.catalogue import param
from lora.routers import ROUTERS, CosineRouter


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
    accepts=["text", "texts", "examples", "vector", "vectors", "adapter"],
    when="For one prompt at a time, where a cosine that means the same in every pool is wanted.",
    k=3,
)
class LoraRetriever(CosineRouter):
    """Score = cosine with the expert's centroid; weights = softmax(score / temperature)."""
