"""Model Breadcrumbs: drop the smallest and the very largest entries, add what is left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from lora.catalogue import param
from lora.election import EntryRule, Scope, between, merge_entries, weighted_total
from lora.merges import MERGES, Merged, Module, Modules


@dataclass(frozen=True)
class BreadcrumbsParams:
    """Parameters of `breadcrumbs`."""

    density: float = param(0.9, "fraction of the entries of every input that is kept", above=0, maximum=1)
    gamma: float = param(0.01, "fraction of the entries, the largest, that is dropped as outliers", minimum=0)
    scale: float = param(1.0, "factor λ on the merged weight change")
    scope: Literal["tensor", "global"] = param(
        "tensor", "whether fractions are taken in every module, or over all modules of an input"
    )

    def __post_init__(self) -> None:
        if self.density + self.gamma > 1 + 1e-9:  # 0.9 + 0.1 may round up
            raise ValueError("density and gamma together must be at most 1.")


@MERGES.register(
    "breadcrumbs",
    params=BreadcrumbsParams,
    title="Model Breadcrumbs",
    summary="Drops the smallest entries of every input and a few of the largest, and adds the others.",
    source="Model Breadcrumbs, arXiv:2312.06795, section 3, on ΔW; mergekit's breadcrumbs",
    weights="relative",
    family="elementwise",
    when="When single huge entries of some input break the merge.",
    lacks=("low_rank",),
)
def breadcrumbs(modules: Modules, params: BreadcrumbsParams) -> Iterator[tuple[Module, Merged]]:
    """Yield λ·Σ wᵢ·Mᵢ∘ΔWᵢ; Mᵢ drops the ⌊γ·entries⌋ largest and keeps the next ⌊density·entries⌋, at least one."""

    def rule_of(scope: Scope) -> EntryRule:
        return partial(weighted_total, between(params.gamma, params.density, scope))

    return merge_entries(modules, rule_of, params.scale, params.scope)
