"""KnOTS-DARE-TIES: random entries of the inputs' representations are dropped, the others rescaled and elected."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lora.catalogue import param
from lora.election import Election, EntryRule, Scope, randomly_kept
from lora.knots import merge_aligned
from lora.merges import MERGES, Merged, Module, Modules


@dataclass(frozen=True)
class KnotsDareTiesParams:
    """Parameters of `knots_dare_ties`."""

    density: float = param(0.5, "probability that an entry of a representation is kept", above=0, maximum=1)
    scale: float = param(1.0, "factor λ on the merged weight change")
    seed: int = param(0, "of the random masks", minimum=0)


@MERGES.register(
    "knots_dare_ties",
    params=KnotsDareTiesParams,
    title="KnOTS-DARE-TIES",
    summary="Writes all inputs over one basis of output directions, there drops random entries and rescales the "
    "others, elects a sign for each and averages those that agree.",
    source="KnOTS, arXiv:2410.19735, with DARE, arXiv:2311.03099, and TIES-Merging, arXiv:2306.01708",
    weights="relative",
    family="spectral",
    when="To reproduce the paper: the noise of dropping stays in the result, and knots_ties has none.",
    lacks=("gauge", "scale"),
)
def knots_dare_ties(modules: Modules, params: KnotsDareTiesParams) -> Iterator[tuple[Module, Merged]]:
    """Yield λ·U·R, where R is the disjoint mean of the Rᵢ = Uᵀ·ΔWᵢ, masked and divided by the density.

    Masks follow from the seed, the file, the module and the place of the entry: another file, though of equal ΔW,
    has another mask.
    """

    def dare_ties(scope: Scope) -> EntryRule:
        return Election(scope, randomly_kept(params.density, params.seed)).merge

    return merge_aligned(modules, dare_ties, params.scale, "tensor")
