"""Arrow: a token goes to the experts whose first input direction it points along."""

from __future__ import annotations

import numpy as np

from lora.module_routers import MODULE_ROUTERS, Doubles, Floats, TokenParams, TokenRouter


@MODULE_ROUTERS.register(
    "arrow",
    params=TokenParams,
    title="Arrow",
    summary="Per token and module, softmax over the experts with the largest |x·v|; ranked by their shares.",
    source="Arrow, arXiv:2405.11157; the ranking of whole experts is ours",
    needs=("base_model",),
    prototype="arrow",
    accepts=["text", "texts", "examples", "hidden_states"],
    when="To see what Arrow would do inside the model; to rank experts take arrow_global, which knows their hubs.",
    k=3,
)
class Arrow(TokenRouter):
    """Score of a token = |x·v| on the activation as it is, so that long activations choose more sharply."""

    def compare(self, x: Floats, vectors: Floats) -> Doubles:
        """Return |x·v|, (t,); v is (d_in,)."""
        scores: Doubles = np.abs(x.astype(np.float64) @ vectors.astype(np.float64))
        return scores
