"""Weighted sum: λ·Σ wᵢ·ΔWᵢ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lora.catalogue import param
from lora.merges import MERGES, Merged, Module, Modules


@dataclass(frozen=True)
class WeightedSumParams:
    """Parameters of `weighted_sum`."""

    scale: float = param(1.0, "factor λ on the merged weight change")


@MERGES.register(
    "weighted_sum",
    params=WeightedSumParams,
    title="Weighted sum",
    summary="Adds the weight changes, each times its weight: without weights their mean (a uniform soup), with all "
    "weights 1 and a scale task arithmetic; a negative weight takes a skill away (negation, unlearning).",
    source="Task arithmetic, arXiv:2212.04089, section 2; model soups, arXiv:2203.05482, section 2",
    weights="absolute",
    family="linear",
    when="When the result is to be the sum that the weights say and nothing else: skills added or taken away, "
    "weights that a search found. Of several experts half of the mean keeps more than the mean.",
    lacks=(),
)
def weighted_sum(modules: Modules, params: WeightedSumParams) -> Iterator[tuple[Module, Merged]]:
    """Yield λ·Σ wᵢ·ΔWᵢ of every module: the sum of products, never the product of averaged factors."""
    for module in modules:
        yield module, [delta.scaled(params.scale) for delta in module.weighted]
