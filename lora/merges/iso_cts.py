"""Iso-CTS: directions of the sum and directions of every input's own, all of the same strength."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from lora.catalogue import param
from lora.core_space import Core, compact_svd, merge_cores, polar_factor
from lora.lazy_torch import torch
from lora.merges import MERGES, Merged, Module, Modules
from lora.merges.iso_c import IsoCParams, flat, sum_spectrum

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class IsoCtsParams(IsoCParams):
    """Parameters of `iso_cts`."""

    common: float = param(0.8, "fraction of the rank for directions of the sum", minimum=0, maximum=1)


@MERGES.register(
    "iso_cts",
    params=IsoCtsParams,
    title="Iso-CTS",
    summary="As Iso-C, but a part of the rank goes to directions that only one of the inputs has.",
    source="Isotropic model merging, arXiv:2502.04959, algorithm 2, on the span of the inputs",
    weights="relative",
    family="spectral",
    when="As iso_c, for four experts and more at a rank near the sum of theirs.",
    lacks=(),
    rank_aware=True,
)
def iso_cts(modules: Modules, params: IsoCtsParams) -> Iterator[tuple[Module, Merged]]:
    """Yield α·σ̄·U⊥·V⊥ᵀ over c directions of S = ΣΔWᵢ and s of every (1 − U_c·U_cᵀ)·ΔWᵢ; ⊥ is the polar factor.

    Of k directions (the output's rank, at most that of S) s = round((k − ⌊common·k⌋)/n) go to each input, at most
    ⌊k/n⌋, and c = k − n·s to the sum; σ̄ is the mean of their singular values. Where s = 0 this is Iso-C.
    """
    return merge_cores(modules, partial(_flat_union, rank=modules.rank, params=params), params.scale)


def _flat_union(cores: Sequence[Core], rank: int | None, params: IsoCtsParams) -> Tensor:
    U, sigma, Vh = sum_spectrum(cores)
    total = len(sigma) if rank is None else min(rank, len(sigma))
    own = min(round((total - int(params.common * total)) / len(cores)), total // len(cores))
    shared = total - own * len(cores)
    U = U[:, :shared]
    parts = [(U, sigma[:shared], Vh[:shared])]
    for core in cores:
        left, strengths, right = compact_svd(core.matrix - U @ (U.T @ core.matrix), core.norm)
        parts.append((left[:, :own], strengths[:own], right[:own]))
    lefts, spectra, rights = zip(*parts, strict=True)
    directions = polar_factor(torch.cat(lefts, dim=1)) @ polar_factor(torch.cat(rights).T).T
    return flat(directions, torch.cat(spectra), cores, params.norm)
