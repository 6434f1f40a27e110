"""Mo'LoRA: every expert, weighted by how near its cluster of samples is."""

from __future__ import annotations

from dataclasses import dataclass

from lora.catalogue import param
from lora.routers import ROUTERS, CosineRouter


@dataclass(frozen=True)
class MoLoraParams:
    """Parameters of `MoLora`."""

    temperature: float = param(0.1, "softmax temperature of the weights", above=0)
    min_score: float | None = param(None, "cosine below which an expert is no match", minimum=-1, maximum=1)


@ROUTERS.register(
    "molora",
    params=MoLoraParams,
    title="Mo'LoRA",
    summary="Mixes all experts, weighted by a softmax over the cosines with their centroids.",
    source="Mo'LoRA (Maxine, 2023), as the survey arXiv:2408.07057 describes it; its temperature is not published",
    needs=("samples",),
    prototype="centroid",
    accepts=["text", "texts", "examples", "vector", "vectors", "adapter"],
    when="For a small pool whose experts are to be merged by how near each of them is, none left out.",
    k=100,
)
class MoLora(CosineRouter):
    """Score = cosine with the expert's centroid; weights = softmax(score / temperature) over all that fit in k."""
