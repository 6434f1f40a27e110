"""PWE MoE: the user says how much each task counts, and the gates make weights of it."""

from lora.catalogue import NoParams
from lora.compositions import COMPOSITIONS, TRAINED_ON, Shapes, two_layers


@COMPOSITIONS.register(
    "pwe_moe",
    title="PWE MoE",
    summary="Per user and layer, a gate of two layers turns preferences for the tasks into weights of the experts.",
    source="PWE MoE, arXiv:2406.09770, and its code in fusion_bench",
    needs=TRAINED_ON,
    reads="preference",
    place="any",
    runs=True,
    when="Where tasks compete and users choose the compromise, without training anew for each.",
)
def pwe_moe(params: NoParams) -> Shapes:
    """w = V·ReLU(U·p + a) + b, p being a preference for each expert's task, 1/n each where none is given."""
    return two_layers("n")
