"""DARE: drop entries at random and rescale the rest, then add."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from lora.catalogue import param
from lora.election import merge_entries, randomly_kept, weighted_total
from lora.merges import MERGES, Merged, Module, Modules


@dataclass(frozen=True)
class DareParams:
    """Parameters of `dare`."""

    density: float = param(0.5, "probability that an entry of an input is kept", above=0, maximum=1)
    scale: float = param(1.0, "factor λ on the merged weight change")
    seed: int = param(0, "of the random masks", minimum=0)


@MERGES.register(
    "dare",
    params=DareParams,
    title="DARE",
    summary="Drops entries of every input at random, enlarges the others to make up for it, and adds them.",
    source="DARE, arXiv:2311.03099, section 3.2, on ΔW; PEFT's dare_linear_svd",
    weights="relative",
    family="elementwise",
    when="For comparison: dropped entries become noise of full rank, of which compression keeps the strongest part.",
    lacks=("gauge", "scale", "low_rank"),
)
def dare(modules: Modules, params: DareParams) -> Iterator[tuple[Module, Merged]]:
    """Yield λ·Σ wᵢ·Mᵢ∘ΔWᵢ/p with Mᵢ ~ Bernoulli(p), p the density.

    The mask follows from the seed and the input's file: another file of the same ΔW draws another one.
    """
    keep = randomly_kept(params.density, params.seed)
    return merge_entries(modules, lambda scope: partial(weighted_total, keep), params.scale)
