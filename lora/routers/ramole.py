"""RAMoLE: the experts that LoraRetriever finds, to be weighed inside the model."""

from __future__ import annotations

from lora.routers import ROUTERS, CosineRouter
from lora.routers.lora_retriever import LoraRetrieverParams


@ROUTERS.register(
    "ramole",
    params=LoraRetrieverParams,
    title="RAMoLE",
    summary="Ranks experts as LoraRetriever, and names the RouterLoRAs that weigh the found ones inside the model.",
    source="RAMoLE, arXiv:2406.16989; its retriever is that of LoraRetriever",
    needs=("samples", "base_model"),
    prototype="centroid",
    accepts=["text", "texts", "examples", "vector", "vectors", "adapter"],
    when="For one prompt at a time, where a composition of type ramole holds the experts and the client runs the base.",
    k=3,
    composition="ramole",
)
class Ramole(CosineRouter):
    """Score = cosine with the expert's centroid. The weights count until the RouterLoRA says better, token by token."""
