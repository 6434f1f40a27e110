"""LoraHub's composition: weighted sums of the factors. To reproduce results made with it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lora.algebra import factor_sum
from lora.catalogue import NoParams
from lora.merges import MERGES, Merged, Module, Modules


@MERGES.register(
    "lorahub_factors",
    title="LoraHub composition (adds factors)",
    summary="Adds A and B apart, both times the weight: of each input w² of its change is in the result, so that a "
    "negative weight alone takes nothing away, and the cross terms of every pair.",
    source="LoraHub, arXiv:2307.13269, equation 1 and its code",
    weights="absolute",
    family="factors",
    when="Only to reproduce weights that LoraHub found; a search over weighted_sum needs no cross terms.",
    lacks=("gauge", "zero_adapter"),
    equal_ranks=True,
)
def lorahub_factors(modules: Modules, params: NoParams) -> Iterator[tuple[Module, Merged]]:
    """Yield (Σ wᵢ·Bᵢ)·(Σ wᵢ·Aᵢ), where √sᵢ is in both factors: the published code knows one s for all."""
    for module in modules:
        roots = [weight * math.sqrt(delta.scaling) for weight, delta in zip(module.weights, module.deltas, strict=True)]
        yield module, [factor_sum(module.deltas, roots, roots)]
