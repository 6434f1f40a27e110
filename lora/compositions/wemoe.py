"""Weight-ensembling mixture of experts: every example has its own task arithmetic."""

from lora.catalogue import NoParams
from lora.compositions import COMPOSITIONS, Shapes, two_layers


@COMPOSITIONS.register(
    "wemoe",
    title="Weight-Ensembling MoE",
    summary="Per example and layer, a gate of two layers gives every expert a weight, of any sign and size.",
    source="WEMoE, arXiv:2402.00433, and its code in fusion_bench",
    needs=("samples", "base_model"),
    reads="example",
    place="any",
    runs=True,
    when="Where there are unlabelled inputs only: its gates are trained by the entropy of the answers.",
)
def wemoe(params: NoParams) -> Shapes:
    """w = V·ReLU(U·x̄ + a) + b, not normalised; U = V = 0 and b = λ are task arithmetic."""
    return two_layers("d")
