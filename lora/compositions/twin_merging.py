"""Twin-Merging: what the experts share is always on, and each prompt adds of what is their own."""

from lora.catalogue import NoParams
from lora.compositions import COMPOSITIONS, Shapes, two_layers


@COMPOSITIONS.register(
    "twin_merging",
    title="Twin-Merging",
    summary="Per prompt, softmax of a router on the shared model's last states over the exclusive experts.",
    source="Twin-Merging, arXiv:2406.15479, and its code; its batch normalisation folded into U and a",
    needs=("samples", "base_model"),
    reads="example",
    place="model",
    runs=True,
    when="Where experts disagree much and prompts are about one task each.",
)
def twin_merging(params: NoParams) -> Shapes:
    """w = (1, softmax(V·LeakyReLU(U·x̄ + a) + b)): the first expert is the shared one, x̄ is read with it alone."""
    return two_layers("d", "n-1")
