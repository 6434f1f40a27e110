"""Spectral: per module, all input directions of an adapter, each as long as the adapter stretches it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lora.algebra import one_thread
from lora.prototypes import PROTOTYPES
from lora.spectra import spectra
from lora.weights import AdapterFile

if TYPE_CHECKING:
    from torch import Tensor

    from lora.layout import Layout


def spectral(A: Tensor, B: Tensor, scaling: float) -> Tensor:
    """Return V·diag(σ) of scaling·B·A as rows σᵢ·vᵢᵀ.

    For every input ‖rows·x‖ = ‖ΔW·x‖, whatever the output space is.

    Args:
        A: (r, d_in). B: (d_out, r). Any float dtype.
        scaling: s of ΔW = s·B·A; its sign is lost, as that of any singular vector.
    Returns: (r, d_in), float32, by descending length; the entry of largest magnitude in every row is positive. Rows
        beyond the rank of ΔW are zero or rounding.
    Source: SpectR, arXiv:2504.03454.
    """
    with one_thread():
        [(V, sigma)] = spectra([(A, B)])
        return ((abs(scaling) * sigma)[:, None] * V).float()


@PROTOTYPES.register(
    "spectral",
    title="Spectral",
    summary="Per module, all directions that the weight change reads, each as long as it stretches them.",
    source="SpectR, arXiv:2504.03454; V·diag(σ) from the exact factorisation",
    space="module",
)
def spectral_file(path: Path, layout: Layout) -> dict[str, Tensor]:
    """Return the rows σᵢ·vᵢᵀ, (r, d_in) float32, of the linear modules of an adapter file, by path."""
    with one_thread(), AdapterFile(path, layout) as file:
        modules = [module for module in layout.modules.values() if module.kind == "linear"]
        factors = [(found.A, found.B) for found in (file.factors(module.path) for module in modules)]
        return {
            module.path: ((abs(module.scaling) * sigma)[:, None] * V).float()
            for module, (V, sigma) in zip(modules, spectra(factors), strict=True)
        }
