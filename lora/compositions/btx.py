"""Branch-Train-MiX: the feed-forward layers of all experts, and a router trained with them."""

from lora.compositions import COMPOSITIONS, TRAINED_ON, Shapes, SparseParams


@COMPOSITIONS.register(
    "btx",
    params=SparseParams,
    title="Branch-Train-MiX",
    summary="Per token and feed-forward layer, softmax over the top_k largest W·x; kept, not run.",
    source="BTX, arXiv:2403.07816",
    needs=TRAINED_ON,
    reads="token",
    place="any",
    runs=False,
    when="As a record of such a router: its experts are whole layers trained further, which are no adapters.",
)
def btx(params: SparseParams) -> Shapes:
    """w = softmax over the `top_k` largest entries of W·x, of experts that were trained together with W."""
    return {"weight": ("n", "d")}
