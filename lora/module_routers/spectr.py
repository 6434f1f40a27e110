"""SpectR: a token goes to the experts that change it most."""

from __future__ import annotations

import numpy as np

from lora.module_routers import MODULE_ROUTERS, Doubles, Floats, TokenParams, TokenRouter


@MODULE_ROUTERS.register(
    "spectr",
    params=TokenParams,
    title="SpectR",
    summary="Per token and module, softmax over the experts with the largest ‖ΔW·x‖; ranked by their shares.",
    source="SpectR, arXiv:2504.03454; the ranking of whole experts is ours",
    needs=("base_model",),
    prototype="spectral",
    accepts=["text", "texts", "examples", "hidden_states"],
    when="As arrow, where one direction per module is too little (facts.ambiguous_modules); large scalings win more.",
    k=3,
)
class SpectR(TokenRouter):
    """Score of a token = ‖ΔW·x‖ = ‖diag(σ)·Vᵀ·x‖, which grows with the adapter's scaling."""

    def compare(self, x: Floats, vectors: Floats) -> Doubles:
        """Return ‖rows·x‖, (t,); the rows σᵢ·vᵢᵀ are (r, d_in)."""
        scores: Doubles = np.linalg.norm(x.astype(np.float64) @ vectors.astype(np.float64).T, axis=1)
        return scores
