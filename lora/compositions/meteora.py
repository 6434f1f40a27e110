"""MeteoRA: a linear gate per module chooses two experts for every token."""

from lora.compositions import COMPOSITIONS, TRAINED_ON, Shapes, SparseParams


@COMPOSITIONS.register(
    "meteora",
    params=SparseParams,
    title="MeteoRA",
    summary="Per token and module, softmax over the top_k largest W·x; outputs are mixed.",
    source="MeteoRA, arXiv:2405.13053, and its code",
    needs=TRAINED_ON,
    reads="token",
    place="any",
    runs=True,
    when="Where the data of all experts is there to train on together, and prompts go through several tasks.",
)
def meteora(params: SparseParams) -> Shapes:
    """w = softmax over the `top_k` largest entries of W·x; 0 for the others."""
    return {"weight": ("n", "d")}
