"""SpectR: a token goes to the experts that change it most."""

from typing import Any

from lora.bundles import BUNDLES, BundleParams


@BUNDLES.register(
    "spectr",
    params=BundleParams,
    title="SpectR",
    summary="Per token and module, softmax over the experts with the largest ‖ΔW·x‖; their outputs are mixed.",
    source="SpectR, arXiv:2504.03454",
    needs=("base_model",),
    prototype="spectral",
    when="As arrow, where one direction per module is too little; experts with large scalings win more often.",
)
def spectr(params: BundleParams) -> dict[str, Any]:
    """Score = ‖ΔW·x‖ = ‖diag(σ)·Vᵀ·x‖."""
    return {"score": "norm"}
