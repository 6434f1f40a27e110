"""LoRA-Flow: every token has its own mix of the experts, in every layer."""

from lora.catalogue import NoParams
from lora.compositions import COMPOSITIONS, TRAINED_ON, Shapes


@COMPOSITIONS.register(
    "lora_flow",
    title="LoRA-Flow",
    summary="Per token and layer, softmax(W·x) + b over all experts; their outputs are mixed.",
    source="LoRA-Flow, arXiv:2402.11455",
    needs=TRAINED_ON,
    reads="token",
    place="any",
    runs=True,
    when="Where some 200 labelled examples of the task are at hand and several experts know parts of it.",
)
def lora_flow(params: NoParams) -> Shapes:
    """w = softmax(W·x) + b, x being what enters the layer (or the module) that the gate is of."""
    return {"weight": ("n", "d"), "bias": ("n",)}
