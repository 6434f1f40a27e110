"""TSV-M: the strongest singular directions of every input, made orthogonal to each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from lora.catalogue import param
from lora.core_space import Core, merge_cores, polar_factor
from lora.lazy_torch import torch
from lora.merges import MERGES, Merged, Module, Modules

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TsvMParams:
    """Parameters of `tsv_m`."""

    scale: float = param(1.0, "factor α on the merged weight change")


@MERGES.register(
    "tsv_m",
    params=TsvMParams,
    title="TSV-M",
    summary="Gives every input an equal share of the rank, turns the kept singular directions until none overlap, "
    "and adds them up at full strength.",
    source="Task singular vectors, arXiv:2412.00081, TSV-Merge, on the span of the inputs",
    weights="relative",
    family="spectral",
    when="At a quarter of its strength (scale), for a few experts of different tasks, at a high rank.",
    lacks=(),
    rank_aware=True,
)
def tsv_m(modules: Modules, params: TsvMParams) -> Iterator[tuple[Module, Merged]]:
    """Yield α·U⊥·diag(σ)·V⊥ᵀ with U = [U₁ …], V = [V₁ …], σ = [σ₁ …] and ⊥ the polar factor.

    Uᵢ, σᵢ, Vᵢ are the first kᵢ singular triples of ΔWᵢ; Σkᵢ is the output's rank, so that nothing is cut afterwards.
    The published k = min(d_out, d_in)/n would count null directions of low-rank ΔWᵢ: noise of full strength.
    """
    return merge_cores(modules, partial(_decorrelated, rank=modules.rank), params.scale)


def _decorrelated(cores: Sequence[Core], rank: int | None) -> Tensor:
    shares = _shares([core.sigma for core in cores], rank)
    kept = list(zip(cores, shares, strict=True))
    U = polar_factor(torch.cat([core.U[:, :k] for core, k in kept], dim=1))
    V = polar_factor(torch.cat([core.V[:, :k] for core, k in kept], dim=1))
    return (U * torch.cat([core.sigma[:k] for core, k in kept])) @ V.T


def _shares(spectra: Sequence[Tensor], rank: int | None) -> list[int]:
    """Return how many directions of every input are kept: ⌊rank/n⌋, and what is left over by strength."""
    full = [len(sigma) for sigma in spectra]
    if rank is None or sum(full) <= rank:
        return full
    shares = [min(k, rank // len(spectra)) for k in full]
    while sum(shares) < rank:
        open_ends = [i for i in range(len(full)) if shares[i] < full[i]]
        strongest = max(open_ends, key=lambda i: float(spectra[i][shares[i]]))
        shares[strongest] += 1
    return shares
