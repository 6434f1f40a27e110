"""Average activation: a token goes to the experts whose own data looks alike in this module."""

from dataclasses import dataclass
from typing import Any

from lora.bundles import BUNDLES, BundleParams
from lora.catalogue import param


@dataclass(frozen=True)
class ActivationParams(BundleParams):
    """Parameters of `activation`."""

    temperature: float = param(0.1, "softmax temperature of a token's choice; cosines are close together", above=0)


@BUNDLES.register(
    "activation",
    params=ActivationParams,
    title="Average activation",
    summary="Per token and module, softmax over the experts whose mean activation is most alike; outputs are mixed.",
    source="the average-activation baseline of PHATGOOSE, arXiv:2402.05859, section 4",
    needs=("base_model", "samples"),
    prototype="activations",
    when="As a baseline of phatgoose: it needs samples and the base model, and no training.",
)
def activation(params: ActivationParams) -> dict[str, Any]:
    """Score = cosine of x and the mean of what the expert's samples send into the module."""
    return {"score": "cosine"}
