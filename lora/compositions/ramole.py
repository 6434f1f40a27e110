"""RAMoLE: one more LoRA asks, and the experts that were retrieved answer."""

from dataclasses import dataclass

from lora.catalogue import param
from lora.compositions import COMPOSITIONS, TRAINED_ON, Shapes


@dataclass(frozen=True)
class RamoleParams:
    """Parameters of `ramole`."""

    temperature: float | None = param(None, "τ of the softmax; none is the square root of the output's width", above=0)


@COMPOSITIONS.register(
    "ramole",
    params=RamoleParams,
    title="RAMoLE",
    summary="Per token and module, attention with a RouterLoRA's output as query and the experts' outputs as keys.",
    source="RAMoLE, arXiv:2406.16989, the attention of its abstract; the scale 1/√d_out is the usual one, and ours",
    needs=TRAINED_ON,
    reads="outputs",
    place="module",
    runs=True,
    when="Where experts come and go: its RouterLoRA knows none of them, and serves those that a retrieval finds.",
)
def ramole(params: RamoleParams) -> Shapes:
    """wᵢ = softmax over i of (B·A·x)·(ΔWᵢ·x) / τ, A and B of the RouterLoRA, with its scaling in B."""
    return {"router_A": ("r", "d"), "router_B": ("o", "r")}
