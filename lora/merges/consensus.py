"""Consensus merging: of the sum, keep the entries that matter to several inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from lora.catalogue import param
from lora.election import combined, merge_entries, weigh
from lora.errors import InvalidParams
from lora.merges import MERGES, Merged, Module, Modules

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ConsensusParams:
    """Parameters of `consensus`."""

    threshold: float = param(
        0.4, "size of an input's entry, relative to its distance from the sum, above which it matters", minimum=0
    )
    agreement: int = param(2, "how many inputs an entry must matter to", minimum=1)
    scale: float = param(1.0, "factor λ on the merged weight change")


@MERGES.register(
    "consensus",
    params=ConsensusParams,
    title="Consensus",
    summary="Adds the inputs and keeps only the entries that matter to several of them.",
    source="TALL masks and Consensus merging, arXiv:2405.07813, sections 3 and 4, over task arithmetic",
    weights="relative",
    family="elementwise",
    when="When many inputs share skills and the entries that serve a single one of them do harm.",
    lacks=("low_rank",),
)
def consensus(modules: Modules, params: ConsensusParams) -> Iterator[tuple[Module, Merged]]:
    """Yield λ·τ where at least `agreement` of the masks |τᵢ| > threshold·|τ - τᵢ| hold, τᵢ = wᵢ·ΔWᵢ and τ = Σ τᵢ.

    An input has no mask in a module that it does not adapt.

    Raises: InvalidParams: there are fewer inputs than must agree.
    """
    if 1 < modules.n < params.agreement:
        raise InvalidParams(f"agreement is {params.agreement}, but there are only {modules.n} inputs.")
    return merge_entries(modules, lambda scope: partial(_agreed, params), params.scale)


def _agreed(params: ConsensusParams, module: Module, rows: slice, entries: Tensor) -> Tensor:
    total = combined(weigh(module, entries), [1.0] * len(entries))
    masks = sum((part.abs() > params.threshold * (total - part).abs()).int() for part in entries)
    return total.masked_fill_(masks < params.agreement, 0)
