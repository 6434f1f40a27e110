"""EMR's unified task vector: the elected sign and the largest magnitude that agrees with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora.catalogue import param
from lora.election import merge_entries, signs_of_total, weigh
from lora.merges import MERGES, Merged, Module, Modules

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class EmrUnifiedParams:
    """Parameters of `emr_unified`."""

    scale: float = param(1.0, "factor λ on the merged weight change")


@MERGES.register(
    "emr_unified",
    params=EmrUnifiedParams,
    title="EMR unified",
    summary="Elects a sign for every entry and takes the largest magnitude among the inputs that agree.",
    source="EMR-Merging, arXiv:2405.17461, section 3.2: the unified vector, without masks and rescalers per task",
    weights="relative",
    family="elementwise",
    when="When the strongest opinion on every single weight should count in full and not be averaged.",
    lacks=("low_rank",),
)
def emr_unified(modules: Modules, params: EmrUnifiedParams) -> Iterator[tuple[Module, Merged]]:
    """Yield λ·γ∘max {|wᵢ·ΔWᵢ| : sign(wᵢ·ΔWᵢ) = γ} with γ = sign Σ wᵢ·ΔWᵢ, entry by entry."""
    return merge_entries(modules, lambda scope: _unified, params.scale)


def _unified(module: Module, rows: slice, entries: Tensor) -> Tensor:
    weigh(module, entries)
    elected = signs_of_total(entries)
    return entries.mul_(elected).clamp_(min=0).amax(0).mul_(elected)
