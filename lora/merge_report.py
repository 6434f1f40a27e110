"""What a merge kept, what it lost, and how its inputs relate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lora.lazy_torch import torch
from lora.mergeable import merge_warnings
from lora.recipe import MergeInput

if TYPE_CHECKING:
    from torch import Tensor

    from lora.layout import ModuleLayout

DUPLICATE_COSINE = 0.9999

MergeReport = dict[str, Any]


def merge_report(
    inputs: Sequence[MergeInput],
    layouts: Sequence[ModuleLayout],
    spectra: Sequence[tuple[Tensor, float]],
    products: Sequence[Tensor],
    rank: int,
) -> MergeReport:
    """Return the report of a merge, ready for JSON.

    Args:
        layouts: the merged modules.
        spectra: (σ, ‖ΔW‖²_F) of every merged module.
        products: inner products of the inputs' ΔW in every module, (n, n).
        rank: what the spectra are cut to.
    """
    rows = []
    kept_total = energy_total = 0.0
    for layout, (sigma, energy), product in zip(layouts, spectra, products, strict=True):
        kept = float(sigma[:rank].square().sum())
        kept_total, energy_total = kept_total + kept, energy_total + energy
        rows.append(
            {"path": layout.path, "rank": min(rank, len(sigma))}
            | _losses(kept, energy)
            | {"norm_in": product.diagonal().clamp_min(0).sqrt().tolist(), "norm_out": math.sqrt(kept)}
        )
    cosine = _cosines(sum(products[1:], products[0]))
    warnings = merge_warnings(inputs) + _duplicate_warnings(inputs, cosine)
    if energy_total == 0:
        warnings.append({"code": "zero_result", "message": "The inputs cancel each other: the merge changes nothing."})
    return _losses(kept_total, energy_total) | {
        "per_module": rows,
        "interference": {"cosine": cosine},
        "warnings": warnings,
    }


def _losses(kept: float, energy: float) -> dict[str, float]:
    share = min(kept / energy, 1.0) if energy else 1.0
    return {"energy_kept": share, "relative_error": math.sqrt(max(0.0, 1 - share))}


def _cosines(products: Tensor) -> list[list[float]]:
    norms = products.diagonal().clamp_min(0).sqrt()
    scale = torch.where(norms > 0, 1 / norms, 0.0)
    cosines: list[list[float]] = (products * scale[:, None] * scale).clamp(-1, 1).tolist()
    return cosines


def _duplicate_warnings(inputs: Sequence[MergeInput], cosine: list[list[float]]) -> list[dict[str, str]]:
    return [
        {
            "code": "near_duplicate",
            "message": f"{inputs[i].name} and {inputs[j].name} change the base in nearly the same way "
            f"(cosine {cosine[i][j]:.5f}); their common part counts twice.",
        }
        for i in range(len(inputs))
        for j in range(i + 1, len(inputs))
        if cosine[i][j] > DUPLICATE_COSINE
    ]
