"""DARE-TIES: drop entries at random and rescale the rest, then elect a sign per entry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from lora.catalogue import param
from lora.election import Election, EntryRule, Scope, merge_entries, randomly_kept
from lora.merges import MERGES, Merged, Module, Modules


@dataclass(frozen=True)
class DareTiesParams:
    """Parameters of `dare_ties`."""

    density: float = param(0.5, "probability that an entry of an input is kept", above=0, maximum=1)
    scale: float = param(1.0, "factor λ on the merged weight change")
    seed: int = param(0, "of the random masks", minimum=0)
    semantics: Literal["paper", "peft", "mergekit"] = param(
        "paper", "mean of weighted entries (paper), elected without weights (PEFT's dare_ties_svd), or sum (mergekit)"
    )


@MERGES.register(
    "dare_ties",
    params=DareTiesParams,
    title="DARE-TIES",
    summary="Drops entries of every input at random, elects a sign for each, and averages those that agree.",
    source="DARE, arXiv:2311.03099, section 3.2, before the election of TIES-Merging, arXiv:2306.01708, section 4.2",
    weights="relative",
    family="elementwise",
    when="For comparison with published merges; as a LoRA it keeps less than ties does.",
    lacks=("gauge", "scale", "low_rank"),
)
def dare_ties(modules: Modules, params: DareTiesParams) -> Iterator[tuple[Module, Merged]]:
    """Yield λ times the disjoint mean of Mᵢ∘ΔWᵢ/p with Mᵢ ~ Bernoulli(p), p the density; nothing is trimmed.

    "mergekit" adds the entries that agree, as its `dare_ties` does unless told to normalize. Its rescaling to the
    former L1 norm is 1/p up to chance, and is not repeated here.
    """
    keep = randomly_kept(params.density, params.seed)

    def rule_of(scope: Scope) -> EntryRule:
        return Election(scope, keep, params.semantics, average=params.semantics != "mergekit").merge

    return merge_entries(modules, rule_of, params.scale)
