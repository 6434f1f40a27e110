"""Core-space TIES: TIES on the inputs' cores, small matrices between two shared bases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from lora.catalogue import param
from lora.core_space import NEGLIGIBLE, Core, compact_svd, merge_cores
from lora.lazy_torch import torch
from lora.merges import MERGES, Merged, Module, Modules

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class CoreTiesParams:
    """Parameters of `core_ties`."""

    density: float = param(0.2, "fraction of the entries of every core that is kept", above=0, maximum=1)
    scale: float = param(1.0, "factor λ on the merged weight change")


@MERGES.register(
    "core_ties",
    params=CoreTiesParams,
    title="Core-space TIES",
    summary="Writes all inputs as small matrices between shared bases of output and input directions, and there keeps "
    "the largest entries, elects a sign for each and averages those that agree.",
    source="Core Space merging, arXiv:2509.17786, with TIES-Merging, arXiv:2306.01708, section 4.2",
    weights="relative",
    family="spectral",
    when="Only for comparison with published figures: other bases of the same spaces give another merge; use "
    "knots_ties, whose basis follows from the weight changes alone.",
    lacks=(),
)
def core_ties(modules: Modules, params: CoreTiesParams) -> Iterator[tuple[Module, Merged]]:
    """Yield λ·U·T·Vᵀ with T the disjoint mean of the trimmed Uᵀ·ΔWᵢ·V, trimmed within the module.

    U and V are the left singular vectors of [B₁ …] and [A₁ᵀ …]. The published rule takes the factors of the files, so
    that its result changes with how they split ΔW; here each ΔWᵢ is first split evenly, Bᵢ = Uᵢ√Σᵢ and Aᵢ = √ΣᵢVᵢᵀ.
    Where votes cancel nothing is kept.
    """
    return merge_cores(modules, partial(_elected, density=params.density), params.scale)


def _elected(cores: Sequence[Core], density: float) -> Tensor:
    U, _, _ = compact_svd(torch.cat([core.U * core.sigma.sqrt() for core in cores], dim=1))
    V, _, _ = compact_svd(torch.cat([core.V * core.sigma.sqrt() for core in cores], dim=1))
    entries = torch.stack([U.T @ core.matrix @ V for core in cores])
    magnitudes = entries.abs().flatten(1)
    size = magnitudes.shape[1]
    floors = magnitudes.kthvalue(size - max(1, int(density * size)) + 1).values
    kept = torch.where(entries.abs() >= floors[:, None, None], entries, 0)
    votes = kept.sum(0)
    elected = torch.where(votes.abs() > NEGLIGIBLE * kept.abs().sum(0), votes, 0)
    agreeing = torch.where(kept * elected > 0, kept, 0)
    return U @ (agreeing.sum(0) / (agreeing != 0).sum(0).clamp(min=1)) @ V.T
