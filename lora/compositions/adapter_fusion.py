"""AdapterFusion: attention over the experts' outputs, asked by what enters the module."""

from lora.catalogue import NoParams
from lora.compositions import COMPOSITIONS, TRAINED_ON, Shapes


@COMPOSITIONS.register(
    "adapter_fusion",
    title="AdapterFusion",
    summary="Per token and module, attention with x as query and the experts' outputs as keys and values.",
    source="AdapterFusion, arXiv:2005.00247",
    needs=TRAINED_ON,
    reads="outputs",
    place="module",
    runs=True,
    when="Where a whole labelled set of one target task is there: it has the most to train.",
)
def adapter_fusion(params: NoParams) -> Shapes:
    """wᵢ = softmax over i of (Q·x)·(K·ΔWᵢ·x); what is added is V·Σ wᵢ·ΔWᵢ·x."""
    return {"query": ("a", "d"), "key": ("a", "o"), "value": ("o", "o")}
