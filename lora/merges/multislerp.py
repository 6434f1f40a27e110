"""Multi-SLERP: the mean direction of several weight changes at their mean norm."""

from __future__ import annotations

from collections.abc import Iterator

from lora.algebra import gram, one_thread
from lora.catalogue import NoParams
from lora.lazy_torch import torch
from lora.merges import MERGES, Merged, Module, Modules

NO_DIRECTION = 1e-7  # the mean of unit vectors below which they cancel: rounding of their inner products


@MERGES.register(
    "multislerp",
    title="Multi-SLERP",
    summary="Averages the directions of the weight changes and gives the result their mean norm, module by module.",
    source="mergekit, multislerp with a base model, so that it acts on ΔW",
    weights="relative",
    family="linear",
    when="For two experts, at a quarter of its strength (as an input of weighted_sum); of more, iso_c keeps more.",
    lacks=("zero_adapter",),
)
def multislerp(modules: Modules, params: NoParams) -> Iterator[tuple[Module, Merged]]:
    """Yield m·Σaᵢ‖ΔWᵢ‖ with m = Σaᵢuᵢ/‖Σaᵢuᵢ‖, uᵢ = ±ΔWᵢ/‖ΔWᵢ‖ and aᵢ = |wᵢ|/Σ|w|.

    mergekit then adds the mean of the uᵢ in the tangent space at m, Σaᵢ(uᵢ − ⟨uᵢ, m⟩m): it is zero by the choice of
    m. Where directions cancel there is no m, and the result is Σaᵢ·(±ΔWᵢ). A ΔW of zero has no direction, but counts
    in the mean norm.
    """
    for module in modules:
        with one_thread():
            products = gram(module.weighted)
        norms = products.diagonal().clamp_min(0).sqrt()  # |ŵᵢ|·‖ΔWᵢ‖ = n·aᵢ·‖ΔWᵢ‖
        shares = norms.new_tensor(module.weights).abs() / modules.n
        along = torch.where(norms > 0, shares / norms, 0)  # Σ along·(ŵᵢ·ΔWᵢ) is Σ aᵢuᵢ
        length = float((along @ products @ along).clamp_min(0).sqrt())
        mean_norm = float(norms.sum()) / modules.n
        factor = along * (mean_norm / length) if length > NO_DIRECTION else torch.full_like(norms, 1 / modules.n)
        yield module, [delta.scaled(c) for delta, c in zip(module.weighted, factor.tolist(), strict=True)]
