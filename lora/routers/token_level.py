"""Token-level Adaptation: weights for the next token, from the text so far."""

from __future__ import annotations

from dataclasses import dataclass

from lora.catalogue import param
from lora.routers import ROUTERS, CosineRouter


@dataclass(frozen=True)
class TokenLevelParams:
    """Parameters of `TokenLevel`."""

    temperature: float = param(0.25, "softmax temperature of the weights", above=0)
    min_score: float | None = param(None, "cosine below which an expert is no match", minimum=-1, maximum=1)


@ROUTERS.register(
    "token_level",
    params=TokenLevelParams,
    title="Token-level Adaptation",
    summary="Weighs the nearest experts for the next token; ask again with the longer text as it grows.",
    source="Belofsky 2023, arXiv:2311.10847; divides all cosines by a temperature, where its code multiplies the "
    "largest one by 4",
    needs=("samples",),
    prototype="centroid",
    accepts=["text", "texts", "vector", "vectors"],
    when="While a text is generated and its task may change; the client mixes, and every other token is enough.",
    k=4,
)
class TokenLevel(CosineRouter):
    """Score = cosine of the text so far with the expert's centroid; weights = softmax(score / temperature)."""
