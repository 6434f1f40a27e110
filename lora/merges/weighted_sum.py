"""Weighted sum: Σ wᵢ·ΔWᵢ."""

from __future__ import annotations

from collections.abc import Iterator

from lora.catalogue import NoParams
from lora.merges import MERGES, Merged, Module, Modules


@MERGES.register(
    "weighted_sum",
    title="Weighted sum",
    summary="Adds the weight changes of the inputs, each times its weight; without weights it is their mean.",
    source="Task arithmetic, arXiv:2212.04089, section 2; model soups, arXiv:2203.05482, section 2",
    weights="absolute",
)
def weighted_sum(modules: Modules, params: NoParams) -> Iterator[tuple[Module, Merged]]:
    """Yield Σ wᵢ·ΔWᵢ of every module: the sum of products, never the product of averaged factors."""
    for module in modules:
        yield module, module.weighted
