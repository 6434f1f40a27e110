"""TIES: trim small entries, elect a sign per entry, average those that agree with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from lora.catalogue import param
from lora.election import Election, EntryRule, Scope, largest, merge_entries
from lora.merges import MERGES, Merged, Module, Modules


@dataclass(frozen=True)
class TiesParams:
    """Parameters of `ties`."""

    density: float = param(0.2, "fraction of the entries of every input that is kept", above=0, maximum=1)
    scale: float = param(1.0, "factor λ on the merged weight change")
    scope: Literal["tensor", "global"] = param(
        "tensor", "whether the fraction is taken in every module, or over all modules of an input"
    )
    semantics: Literal["paper", "peft", "mergekit"] = param(
        "paper", "whether votes are weighted (paper), are not (PEFT's ties_svd), or the mean is as well (mergekit)"
    )


@MERGES.register(
    "ties",
    params=TiesParams,
    title="TIES",
    summary="Keeps the largest entries of every input, elects a sign for each, and averages those that agree.",
    source="TIES-Merging, arXiv:2306.01708, section 4.2, on ΔW",
    weights="relative",
    family="elementwise",
    when="To match published merges; of LoRA experts knots_ties keeps a little more, and loses nothing to compression.",
    lacks=("low_rank",),
)
def ties(modules: Modules, params: TiesParams) -> Iterator[tuple[Module, Merged]]:
    """Yield λ times the disjoint mean of the trimmed ΔWᵢ.

    γ = sign Σᵢ wᵢ·trim(ΔWᵢ), then the mean of those wᵢ·trim(ΔWᵢ) whose sign is γ, entry by entry. What `semantics`
    changes is told by `Election`.
    """

    def rule_of(scope: Scope) -> EntryRule:
        return Election(scope, largest(params.density, scope), params.semantics).merge

    return merge_entries(modules, rule_of, params.scale, params.scope)
