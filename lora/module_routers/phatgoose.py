"""PHATGOOSE: a token goes to the experts whose trained gates it resembles."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from lora.catalogue import param
from lora.module_routers import MODULE_ROUTERS, Doubles, Floats, TokenParams, TokenRouter

EPSILON = 1e-5  # of LayerNorm


@dataclass(frozen=True)
class PhatgooseParams(TokenParams):
    """Parameters of `Phatgoose`."""

    top_k: int = param(2, "how many experts share a token; fewer where fewer adapt the module", minimum=1, maximum=100)


@MODULE_ROUTERS.register(
    "phatgoose",
    params=PhatgooseParams,
    title="PHATGOOSE",
    summary="Per token and module, softmax over the experts whose gates correlate most with x; ranked by their shares.",
    source="PHATGOOSE, arXiv:2402.05859; the ranking of whole experts is ours",
    needs=("base_model", "gates"),
    prototype="phatgoose",
    accepts=["text", "texts", "examples", "hidden_states"],
    when="To see what PHATGOOSE would do inside the model; to rank experts take activation, which needs no training.",
    k=3,
)
class Phatgoose(TokenRouter):
    """Score of a token = LN(x)·LN(g)/√d, LN without affine parameters: √d times the correlation of x and g."""

    def compare(self, x: Floats, vectors: Floats) -> Doubles:
        """Return LN(x)·LN(g)/√d, (t,); g is (d_in,)."""
        scores: Doubles = _standardised(x) @ _standardised(vectors) / sqrt(vectors.shape[-1])
        return scores


def _standardised(x: NDArray[np.floating]) -> Doubles:
    centred = x.astype(np.float64) - x.mean(axis=-1, keepdims=True, dtype=np.float64)
    found: Doubles = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + EPSILON)
    return found
