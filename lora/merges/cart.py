"""CART: the mean of the inputs, and the strongest directions in which each one deviates from it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from lora.catalogue import param
from lora.core_space import Core, compact_svd, merge_cores
from lora.lazy_torch import torch
from lora.merges import MERGES, Merged, Module, Modules

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class CartParams:
    """Parameters of `cart`."""

    density: float = param(
        0.08, "fraction of the joint rank Σr that is kept of every input's deviation from the mean", above=0, maximum=1
    )
    scale: float = param(1.0, "factor λ on the deviations; 0 is the mean")


@MERGES.register(
    "cart",
    params=CartParams,
    title="CART",
    summary="Takes the mean and adds to it the strongest directions in which each input differs from the mean.",
    source="CART, arXiv:2412.12153, with the rank counted in Σr",
    weights="relative",
    family="spectral",
    when="When half or a quarter of the mean is nearly right and each expert misses a little of its own in it.",
    lacks=(),
)
def cart(modules: Modules, params: CartParams) -> Iterator[tuple[Module, Merged]]:
    """Yield τ̄ + λ·Σᵢ trunc_k(ΔWᵢ − τ̄) with τ̄ the mean of the ΔWᵢ that are not zero and k = ⌈density·Σr⌉."""
    return merge_cores(modules, partial(_recentred, params=params), 1.0)


def _recentred(cores: Sequence[Core], params: CartParams) -> Tensor:
    mean = torch.stack([core.matrix for core in cores]).mean(0)
    k = math.ceil(params.density * sum(len(core.sigma) for core in cores))
    merged = mean.clone()
    for core in cores:
        U, sigma, Vh = compact_svd(core.matrix - mean, core.norm)
        merged += params.scale * (U[:, :k] * sigma[:k]) @ Vh[:k]
    return merged
