"""Arrow for whole prompts: a prompt goes to the experts whose directions respond more to it than to generic texts."""

from dataclasses import dataclass
from typing import Any

from lora.bundles import BUNDLES, BundleParams
from lora.catalogue import param
from lora.module_routers.arrow_global import PRIOR_SPREAD


@dataclass(frozen=True)
class ArrowGlobalParams(BundleParams):
    """Parameters of `arrow_global`."""

    top_k: int = param(1, "how many experts share a prompt; fewer where there are fewer", minimum=1, maximum=100)
    temperature: float = param(0.5, "softmax temperature of a prompt's choice, in standard deviations", above=0)


@BUNDLES.register(
    "arrow_global",
    params=ArrowGlobalParams,
    title="Arrow, global",
    summary="Per prompt, softmax over the experts whose Arrow vectors respond most above what generic texts give.",
    source="ours, on the vectors of Arrow, arXiv:2405.11157",
    needs=("base_model",),
    prototype="arrow",
    when="Where prompts are about one task each: one pass of the base alone decides for all tokens and modules.",
)
def arrow_global(params: ArrowGlobalParams) -> dict[str, Any]:
    """Score = mean over modules of (mean over tokens of |x·v|/|x|, less μ)/σ, divided by √(spread² + 0.5²)."""
    return {"score": "mean_calibrated_abs_cosine", "prior_spread": PRIOR_SPREAD}
