"""Pico: a linear merge of inputs that were first weakened in the output directions that they crowd."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from lora.algebra import gram, one_thread
from lora.catalogue import param
from lora.core_space import compact_svd, core_space
from lora.lazy_torch import torch
from lora.merges import MERGES, Merged, Module, Modules
from lora.merges.svc import merge_linearly
from lora.weights import Factors

CANCELLED = 1e-7  # norm of the merge, relative to the inputs', that is rounding of their inner products


@dataclass(frozen=True)
class PicoParams:
    """Parameters of `pico`."""

    on: Literal["weighted_sum", "multislerp", "karcher"] = param(
        "weighted_sum", "linear merge of the weakened inputs, with its default parameters"
    )
    scale: float = param(1.0, "factor on the merged weight change")


@MERGES.register(
    "pico",
    params=PicoParams,
    title="Pico",
    summary="Weakens the output directions that carry most of the inputs before a linear merge, and gives the result "
    "the mean norm of the inputs.",
    source="Pico, arXiv:2604.16826, on factors that do not depend on how the files split ΔW",
    weights="relative",
    family="spectral",
    when="At a quarter of its strength (scale), for two experts; of more it keeps about as much as svc.",
    lacks=(),
)
def pico(modules: Modules, params: PicoParams) -> Iterator[tuple[Module, Merged]]:
    """Yield γ·merge((1 + U·diag(a − 1)·Uᵀ)·ΔWᵢ) with a_j = 1/(1 + (n − 1)·p_j) and p_j = σ_j²/Σσ².

    UΣVᵀ = [U₁Σ₁ …], the left sides of the compact SVDs of the weighted ΔWᵢ, and γ brings the norm to the mean of
    ‖ΔWᵢ‖ in the module; where the inputs cancel, nothing is left to be brought there. As published, on the Bᵢ of the
    files, the result would change with how ΔW is split.
    """
    for module in modules:
        with one_thread():
            calibrated, norm = _calibrated(module)
        merged = merge_linearly(params.on, calibrated, modules)
        found = float(gram(merged).sum().clamp_min(0).sqrt())
        gain = params.scale * norm / found if found > CANCELLED * norm else 0.0
        yield module, [term.scaled(gain) for term in merged]


def _calibrated(module: Module) -> tuple[Module, float]:
    """Return the module with its weakened ΔWᵢ, and the mean norm of the weighted ones that are not zero."""
    space = core_space(module.weighted)
    n = len(space.cores)
    if not n:
        return module, 0.0
    u, sigma, _ = compact_svd(torch.cat([core.U * core.sigma for core in space.cores], dim=1))
    shares = sigma.square() / sigma.square().sum()
    U, change = space.left @ u, 1 / (1 + (n - 1) * shares) - 1
    deltas = tuple(Factors(d.A, d.B + U @ (change[:, None] * (U.T @ d.B)), d.scaling) for d in module.deltas)
    return replace(module, deltas=deltas), sum(core.norm for core in space.cores) / n
