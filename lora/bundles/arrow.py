"""Arrow: a token goes to the experts whose first input direction it points along."""

from dataclasses import dataclass
from typing import Any

from lora.bundles import BUNDLES, BundleParams
from lora.catalogue import param


@dataclass(frozen=True)
class ArrowParams(BundleParams):
    """Parameters of `arrow`."""

    top_k: int = param(4, "how many experts share a token; fewer where there are fewer", minimum=1, maximum=100)
    calibrated: bool = param(False, "score = (|x·v|/|x| − μ)/σ with what generic texts gave, instead of |x·v|")
    uniform: bool = param(True, "write all adapters with one rank and the same targets, which PEFT's Arrow asks for")


@BUNDLES.register(
    "arrow",
    params=ArrowParams,
    title="Arrow",
    summary="Per token and module, softmax over the experts with the largest |x·v|; their outputs are mixed.",
    source="Arrow, arXiv:2405.11157, with outputs mixed as PEFT 0.21 does; exact vectors; μ and σ are ours",
    needs=("base_model",),
    prototype="arrow",
    when="Where adapters come with nothing but their weights, and PEFT shall run them.",
)
def arrow(params: ArrowParams) -> dict[str, Any]:
    """Score = |x·v| on the activation as it is, or how far above that of generic texts |x·v|/|x| is."""
    return {"score": "calibrated_abs_cosine" if params.calibrated else "abs_dot"}
