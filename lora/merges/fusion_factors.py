"""λ-fusion of parameter-efficient modules: convex combinations of the factors. To reproduce results made with it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lora.algebra import factor_sum
from lora.catalogue import NoParams
from lora.merges import MERGES, Merged, Module, Modules


@MERGES.register(
    "fusion_factors",
    title="λ-fusion (averages factors)",
    summary="Averages A and B apart, by weights that sum to 1; a negative weight negates an input by the sign of its "
    "B. The cross terms of every pair are in the result.",
    source="Composing Parameter-Efficient Modules, arXiv:2306.14870, section 3",
    weights="relative",
    family="factors",
    when="Only to reproduce that paper, whose modules start from one initialisation; else weighted_sum.",
    lacks=("gauge", "zero_adapter"),
    equal_ranks=True,
)
def fusion_factors(modules: Modules, params: NoParams) -> Iterator[tuple[Module, Merged]]:
    """Yield (Σ ±λᵢ·Bᵢ)·(Σ λᵢ·Aᵢ) with λᵢ = |wᵢ|/Σ|w|, where √sᵢ is in both factors."""
    for module in modules:
        pairs = zip(module.weights, module.deltas, strict=True)
        left = [weight / modules.n * math.sqrt(delta.scaling) for weight, delta in pairs]
        yield module, [factor_sum(module.deltas, left, [abs(share) for share in left])]
