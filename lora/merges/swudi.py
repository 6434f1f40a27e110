"""SWUDI: WUDI with a spectral filter that leaves alone the directions in which the inputs say little."""

from __future__ import annotations

import math
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
class SwudiParams:
    """Parameters of `swudi`."""

    filter: Literal["exponential", "participation"] = param(
        "exponential", "soft filter 1 − exp(−λ·time) (SWUDI), or only the strongest directions (ASWUDI)"
    )
    time: float = param(300.0, "t of the exponential filter: 0 is the start, large values are WUDI", minimum=0)
    start: Literal["sum", "mean"] = param("sum", "what directions that the filter leaves out keep")
    scale: float = param(1.0, "factor on the merged weight change")


@MERGES.register(
    "swudi",
    params=SwudiParams,
    title="SWUDI",
    summary="As WUDI, but only in input directions that carry much of the inputs; elsewhere the sum or mean stays.",
    source="SWUDI and ASWUDI in the code of OptMerge, arXiv:2505.19892, on the span of the inputs",
    weights="relative",
    family="spectral",
    when="For comparison with wudi, where inputs overlap; of the example experts it keeps less.",
    lacks=(),
)
def swudi(modules: Modules, params: SwudiParams) -> Iterator[tuple[Module, Merged]]:
    """Yield τ = τ₀ − τ₀·U·f·Uᵀ + D·U·(f/λ)·Uᵀ with C = Σωᵢ·τᵢᵀτᵢ = UΛUᵀ, D = Σωᵢ·τᵢτᵢᵀτᵢ and ωᵢ = 1/‖τᵢ‖².

    The filter f is 1 − exp(−λt), or 1 for the first ⌈(Σ√λ)²/Σλ⌉ directions and 0 for the others.
    """
    return merge_cores(modules, partial(_filtered, params=params), params.scale)


def _filtered(cores: Sequence[Core], params: SwudiParams) -> Tensor:
    start = torch.stack([core.matrix for core in cores]).sum(0)
    if params.start == "mean":
        start = start / len(cores)
    # C = X·Xᵀ and D = Y·Xᵀ: the SVD of X instead of the eigenvectors of C keeps the small half of the spectrum
    X = torch.cat([core.V * (core.sigma / core.norm) for core in cores], dim=1)
    Y = torch.cat([core.U * (core.sigma.square() / core.norm) for core in cores], dim=1)
    U, s, Vh = compact_svd(X)
    kept = _filter(s, params)
    return start - (start @ U * kept) @ U.T + (Y @ Vh.T * (kept / s)) @ U.T


def _filter(s: Tensor, params: SwudiParams) -> Tensor:
    """Return f for the square roots s of λ, descending."""
    if params.filter == "exponential":
        return -torch.expm1(-params.time * s.square())
    participation = float(s.sum().square() / s.square().sum())
    first = math.ceil(participation * (1 - 1e-12))  # k equal directions count as k, not as k + rounding
    return (torch.arange(len(s), device=s.device) < first).to(s.dtype)
