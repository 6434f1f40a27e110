"""KnOTS-TIES: TIES on the inputs' representations over one basis instead of their entries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from lora.catalogue import param
from lora.election import Election, EntryRule, Scope, largest
from lora.knots import merge_aligned
from lora.merges import MERGES, Merged, Module, Modules


@dataclass(frozen=True)
class KnotsTiesParams:
    """Parameters of `knots_ties`."""

    density: float = param(1.0, "fraction of the entries of every representation that is kept", above=0, maximum=1)
    scale: float = param(1.0, "factor λ on the merged weight change")
    scope: Literal["tensor", "global"] = param(
        "global", "whether the fraction is taken in every module, or over all modules of an input"
    )


@MERGES.register(
    "knots_ties",
    params=KnotsTiesParams,
    title="KnOTS-TIES",
    summary="Writes all inputs over one basis of output directions, and there keeps the largest entries, elects a sign "
    "for each and averages those that agree.",
    source="KnOTS, arXiv:2410.19735, with TIES-Merging, arXiv:2306.01708, section 4.2; density 1 as its "
    "authors take for language models",
    weights="relative",
    family="spectral",
    when="Instead of ties for LoRA experts: the entries it compares mean the same in all of them, and nothing of the "
    "result is lost to compression at a rank of Σr.",
    lacks=(),
)
def knots_ties(modules: Modules, params: KnotsTiesParams) -> Iterator[tuple[Module, Merged]]:
    """Yield λ·U·R, where R is the disjoint mean of the trimmed Rᵢ = Uᵀ·ΔWᵢ; see `lora.knots` and `ties`."""

    def ties(scope: Scope) -> EntryRule:
        return Election(scope, largest(params.density, scope)).merge

    return merge_aligned(modules, ties, params.scale, params.scope)
