"""Iso-C: the sum of the inputs with all its singular values made equal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from lora.catalogue import param
from lora.core_space import Core, compact_svd, merge_cores
from lora.lazy_torch import torch
from lora.merges import MERGES, Merged, Module, Modules

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class IsoCParams:
    """Parameters of `iso_c`."""

    norm: Literal["none", "mean", "max"] = param(
        "mean", "size of the result in a module: as published (none), or the mean or largest norm among the inputs"
    )
    scale: float = param(1.0, "factor α on the merged weight change")


@MERGES.register(
    "iso_c",
    params=IsoCParams,
    title="Iso-C",
    summary="Adds the inputs up, keeps the strongest directions and gives all of them the same strength, so that "
    "what the inputs share does not drown what is each one's own.",
    source="Isotropic model merging, arXiv:2502.04959, section 4.1 and algorithm 1, on the span of the inputs",
    weights="relative",
    family="spectral",
    when="First where there are weights alone: at its own strength it keeps more of several experts than any other "
    "method without data.",
    lacks=(),
    rank_aware=True,
)
def iso_c(modules: Modules, params: IsoCParams) -> Iterator[tuple[Module, Merged]]:
    """Yield α·σ̄·UVᵀ, where UΣVᵀ = ΣΔWᵢ up to the output's rank and σ̄ is the mean of these σ.

    A flat spectrum has no best part of lower rank: the sum is cut first and flattened afterwards.
    """
    return merge_cores(modules, partial(_flat_sum, rank=modules.rank, norm=params.norm), params.scale)


def _flat_sum(cores: Sequence[Core], rank: int | None, norm: str) -> Tensor:
    U, sigma, Vh = sum_spectrum(cores)
    return flat(U[:, :rank] @ Vh[:rank], sigma[:rank], cores, norm)


def sum_spectrum(cores: Sequence[Core]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the compact SVD of ΣMᵢ; where the Mᵢ cancel it is empty."""
    return compact_svd(torch.stack([core.matrix for core in cores]).sum(0), max(core.norm for core in cores))


def flat(directions: Tensor, sigma: Tensor, cores: Sequence[Core], norm: str) -> Tensor:
    """Return directions UVᵀ at the mean strength, or where a norm of the cores is wanted, at that norm."""
    if not len(sigma):
        return directions
    if norm == "none":
        return directions * sigma.mean()
    norms = [core.norm for core in cores]
    wanted = max(norms) if norm == "max" else sum(norms) / len(norms)
    return directions * (wanted / float(torch.linalg.norm(directions)))
