"""Average activation: a token goes to the experts whose own samples look alike in this module."""

from __future__ import annotations

from dataclasses import dataclass

from lora.catalogue import param
from lora.module_routers import MODULE_ROUTERS, Doubles, Floats, TokenParams, TokenRouter, unit_rows


@dataclass(frozen=True)
class ActivationParams(TokenParams):
    """Parameters of `Activation`."""

    router_temperature: float = param(0.1, "softmax temperature of a token's choice; cosines lie close", above=0)


@MODULE_ROUTERS.register(
    "activation",
    params=ActivationParams,
    title="Average activation",
    summary="Per token and module, softmax over cosines with the experts' mean activations; ranked by their shares.",
    source="the average-activation baseline of PHATGOOSE, arXiv:2402.05859; the ranking of whole experts is ours",
    needs=("base_model", "samples"),
    prototype="activations",
    accepts=["text", "texts", "examples", "hidden_states"],
    when="Where experts have samples and prompts may be bare: found most right experts there, and needs no training.",
    k=3,
)
class Activation(TokenRouter):
    """Score of a token = cosine of x and the mean direction of what the expert's samples send into the module."""

    def compare(self, x: Floats, vectors: Floats) -> Doubles:
        """Return cos(x, μ), (t,); μ is (d_in,)."""
        [mean] = unit_rows(vectors[None])
        scores: Doubles = unit_rows(x) @ mean
        return scores
