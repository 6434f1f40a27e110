"""Magnitude pruning: trim small entries, add what is left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from lora.catalogue import param
from lora.election import EntryRule, Scope, largest, merge_entries, weighted_total
from lora.merges import MERGES, Merged, Module, Modules


@dataclass(frozen=True)
class MagnitudePruneParams:
    """Parameters of `magnitude_prune`."""

    density: float = param(0.5, "fraction of the entries of every input that is kept", above=0, maximum=1)
    scale: float = param(1.0, "factor λ on the merged weight change")
    scope: Literal["tensor", "global"] = param(
        "tensor", "whether the fraction is taken in every module, or over all modules of an input"
    )


@MERGES.register(
    "magnitude_prune",
    params=MagnitudePruneParams,
    title="Magnitude pruning",
    summary="Keeps the largest entries of every input and adds them up.",
    source="PEFT's magnitude_prune_svd; the trim of TIES-Merging, arXiv:2306.01708, section 4.2, without its election",
    weights="relative",
    family="elementwise",
    when="When inputs are noisy in their small entries and do not contradict each other in their large ones.",
    lacks=("low_rank",),
)
def magnitude_prune(modules: Modules, params: MagnitudePruneParams) -> Iterator[tuple[Module, Merged]]:
    """Yield λ·Σ wᵢ·trim(ΔWᵢ)."""

    def rule_of(scope: Scope) -> EntryRule:
        return partial(weighted_total, largest(params.density, scope))

    return merge_entries(modules, rule_of, params.scale, params.scope)
