"""WUDI in closed form: the update that answers every input's own directions as that input does."""

from __future__ import annotations

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
class WudiParams:
    """Parameters of `wudi`."""

    ridge: float = param(
        0.1, "ε, how strongly the result is held to the plain sum: 0 is WUDI itself, large values the sum", minimum=0
    )
    scale: float = param(1.0, "factor on the merged weight change")


@MERGES.register(
    "wudi",
    params=WudiParams,
    title="WUDI",
    summary="Finds the weight change that does to the inputs' own directions what each of them does, and nothing else.",
    source="WUDI-Merging, arXiv:2503.08099, in closed form on the span of the inputs",
    weights="relative",
    family="spectral",
    when="At a quarter of its strength (scale), for experts that share little; where they share more, iso_c and svc "
    "keep more.",
    lacks=(),
)
def wudi(modules: Modules, params: WudiParams) -> Iterator[tuple[Module, Merged]]:
    """Yield τ = (1 + ε)·[U₁Σ₁ …]·(VᵀV + ε·1)⁻¹·Vᵀ with V = [V₁ …].

    WUDI minimises Σ ‖(τ − τᵢ)·τᵢᵀ‖²/‖τᵢ‖², starting from Στᵢ. In low rank the loss is zero where τ·Vᵢ = UᵢΣᵢ for all i,
    which is the formula at ε = 0 (a pseudoinverse, where directions repeat). It grows without bound where right
    directions of two inputs are nearly parallel; minimising ‖τ·V − [U₁Σ₁ …]‖² + ε·‖τ − Στᵢ‖² instead, no direction
    grows beyond (1 + ε)/(2√ε) times its strength in the inputs: 1.74 at ε = 0.1.
    """
    return merge_cores(modules, partial(_interference_free, ridge=params.ridge), params.scale)


def _interference_free(cores: Sequence[Core], ridge: float) -> Tensor:
    answers = torch.cat([core.U * core.sigma for core in cores], dim=1)
    U, sigma, Vh = compact_svd(torch.cat([core.V for core in cores], dim=1))
    gains = (1 + ridge) * sigma / (sigma.square() + ridge)
    return (answers @ Vh.T * gains) @ U.T
