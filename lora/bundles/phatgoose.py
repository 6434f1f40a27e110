"""PHATGOOSE: a token goes to the experts whose trained gates it resembles."""

from typing import Any

from lora.bundles import BUNDLES, BundleParams


@BUNDLES.register(
    "phatgoose",
    params=BundleParams,
    title="PHATGOOSE",
    summary="Per token and module, softmax over the experts whose gates correlate most with x; outputs are mixed.",
    source="PHATGOOSE, arXiv:2402.05859",
    needs=("base_model", "gates"),
    prototype="phatgoose",
    when="Where every adapter has trained gates, its contributor's (gates.safetensors) or a worker's.",
)
def phatgoose(params: BundleParams) -> dict[str, Any]:
    """Score = LN(x)·LN(g)/√d, LN without affine parameters: √d times the correlation of x and g."""
    return {"score": "correlation"}
