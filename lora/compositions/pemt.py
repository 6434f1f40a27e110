"""PEMT: a target task mixes the experts of source tasks by how much it is like them."""

from lora.catalogue import NoParams
from lora.compositions import COMPOSITIONS, TRAINED_ON, Shapes


@COMPOSITIONS.register(
    "pemt",
    title="PEMT",
    summary="Per task and layer, attention of the target's prompt vector over those of the experts' tasks.",
    source="PEMT, arXiv:2402.15082, without the soft prompts themselves",
    needs=TRAINED_ON,
    reads="task",
    place="any",
    runs=True,
    when="Where the target task is known and alike some of the experts': the mix is fixed, and can be merged.",
)
def pemt(params: NoParams) -> Shapes:
    """w = softmax(K·q / √a), q of the target task, a row of K for each expert's task; the same for every token."""
    return {"query": ("a",), "keys": ("n", "a")}
