"""CALM: two models read the same text, and one looks at the other's states."""

from lora.catalogue import NoParams
from lora.compositions import COMPOSITIONS, TRAINED_ON, Shapes


@COMPOSITIONS.register(
    "calm",
    title="CALM",
    summary="Cross-attention from layers of the base to those of a second model; kept and handed out, not run.",
    source="CALM, arXiv:2401.02412",
    needs=TRAINED_ON,
    reads="token",
    place="any",
    runs=False,
    when="Where the expert is a model of its own; whoever trained the cross-attention has the code that runs it.",
)
def calm(params: NoParams) -> Shapes:
    """x + V'·softmax(Q·x · (K·y)) over the tokens of y, the states of the other model, of any width e."""
    return {"query": ("a", "d"), "key": ("a", "e"), "value": ("d", "e")}
