"""SVD compression: the best approximation of Σ wᵢ·ΔWᵢ at the rank of the output."""

from __future__ import annotations

from collections.abc import Iterator

from lora.catalogue import NoParams
from lora.merges import MERGES, Merged, Module, Modules


@MERGES.register(
    "svd",
    title="SVD compression",
    summary="The weighted sum under PEFT's name: what it cannot hold at the rank asked for is cut off by its singular "
    "values. Of one input it makes a smaller one.",
    source="PEFT add_weighted_adapter, combination_type svd; Eckart & Young, 1936",
    weights="absolute",
    family="linear",
    when="When one adapter must become smaller, or a script asks for the name; for sums it equals weighted_sum.",
    lacks=(),
)
def svd(modules: Modules, params: NoParams) -> Iterator[tuple[Module, Merged]]:
    """Yield Σ wᵢ·ΔWᵢ, of which the engine keeps the largest singular directions; no ΔW is formed."""
    for module in modules:
        yield module, module.weighted
