"""PEFT's linear combination: factors are added instead of their products. To reproduce results made with it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lora.algebra import factor_sum
from lora.catalogue import NoParams
from lora.merges import MERGES, Merged, Module, Modules


@MERGES.register(
    "peft_linear",
    title="PEFT linear (adds factors)",
    summary="Adds A and B apart, as PEFT's combination type linear does: the cross terms of every pair of inputs are "
    "in the result, and it depends on how each was factorised. Not a sum of weight changes.",
    source="PEFT add_weighted_adapter, combination_type linear, from 0.18.1 on (signs of weights on A)",
    weights="absolute",
    family="factors",
    when="Only to reproduce what PEFT made; weighted_sum is what its name promises.",
    lacks=("gauge", "zero_adapter"),
    equal_ranks=True,
)
def peft_linear(modules: Modules, params: NoParams) -> Iterator[tuple[Module, Merged]]:
    """Yield (Σ √|cᵢ|·Bᵢ)·(Σ sign(cᵢ)·√|cᵢ|·Aᵢ) with cᵢ = wᵢ·sᵢ."""
    for module in modules:
        coefficients = [delta.scaling for delta in module.weighted]
        left = [math.sqrt(abs(c)) for c in coefficients]
        right = [math.copysign(root, c) for root, c in zip(left, coefficients, strict=True)]
        yield module, [factor_sum(module.deltas, left, right)]
