"""Concatenation: Σ wᵢ·ΔWᵢ with the factors of the inputs side by side, as they are."""

from __future__ import annotations

from collections.abc import Iterator

from lora.catalogue import NoParams
from lora.merges import MERGES, Merged, Module, Modules, Stacked


@MERGES.register(
    "cat",
    title="Concatenation",
    summary="The weighted sum with the factors of all inputs side by side, untouched: the ranks add up.",
    source="PEFT add_weighted_adapter, combination_type cat; LoRA Soups, arXiv:2410.13025, section 3",
    weights="absolute",
    family="linear",
    when="When training goes on or factors are inspected afterwards; else weighted_sum at rank.mode exact is smaller.",
    lacks=(),
    rank_mode="exact",
)
def cat(modules: Modules, params: NoParams) -> Iterator[tuple[Module, Merged]]:
    """Yield B = [B₁ … Bₙ] and A = [w₁s₁A₁; …; wₙsₙAₙ]."""
    for module in modules:
        yield module, Stacked(module.weighted)
