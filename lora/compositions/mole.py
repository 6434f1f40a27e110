"""Mixture of LoRA Experts: the gate looks at what the experts would add."""

from lora.catalogue import NoParams
from lora.compositions import COMPOSITIONS, TRAINED_ON, Shapes


@COMPOSITIONS.register(
    "mole",
    title="Mixture of LoRA Experts",
    summary="Per token and module, softmax over a linear map of all experts' outputs, with a learnt temperature.",
    source="MoLE, arXiv:2404.13628, token by token, normalised by LayerNorm without affine parameters",
    needs=TRAINED_ON,
    reads="outputs",
    place="module",
    runs=True,
    when="Where experts are to keep their own character and be masked out one by one after the training.",
)
def mole(params: NoParams) -> Shapes:
    """w = softmax(W·LN([ΔW₁·x; …; ΔWₙ·x]) / τ)."""
    return {"weight": ("n", "n*o"), "temperature": (1,)}
