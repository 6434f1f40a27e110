"""MixDA: every example opens each expert as far as it helps, all of them at once if need be."""

from lora.catalogue import NoParams
from lora.compositions import COMPOSITIONS, TRAINED_ON, Shapes, two_layers


@COMPOSITIONS.register(
    "mixda",
    title="MixDA",
    summary="Per example and layer, a sigmoid gate of two layers for each expert; outputs are added.",
    source="MixDA, arXiv:2306.05406, with ReLU in the gate",
    needs=TRAINED_ON,
    reads="example",
    place="any",
    runs=True,
    when="Where experts hold knowledge of domains that examples need in part, none or all of.",
)
def mixda(params: NoParams) -> Shapes:
    """w = σ(V·ReLU(U·x̄ + a) + b); an adapter of the task that is always on has a row of zeros and a large b."""
    return two_layers("d")
