"""Model Stock: the mean, shortened by how much the inputs disagree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lora.algebra import cosines, gram, one_thread, row_grams, rows_scaled
from lora.catalogue import param
from lora.merges import MERGES, Merged, Module, Modules

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ModelStockParams:
    """Parameters of `model_stock`."""

    scope: Literal["tensor", "row"] = param("tensor", "what has an angle of its own: a module, or each of its rows")


@MERGES.register(
    "model_stock",
    params=ModelStockParams,
    title="Model Stock",
    summary="Takes the mean and shortens it by the angles between the inputs: what they share stays, noise shrinks.",
    source="Model Stock, arXiv:2403.19522, section 4; the angle as in mergekit, averaged over pairs",
    weights="relative",
    family="linear",
    when="Only for several runs of one task: those of different tasks are near right angles, and it keeps little of "
    "them.",
    lacks=("zero_adapter",),
)
def model_stock(modules: Modules, params: ModelStockParams) -> Iterator[tuple[Module, Merged]]:
    """Yield t·mean of the weighted ΔWᵢ with t = n·c/(1 + (n − 1)·c) and c the mean cosine of all pairs.

    Where the inputs point away from each other on average (c < 0) nothing is kept: t = 0, where the formula would turn
    the mean around and let it grow without bound. A ΔW of zero is at right angles to all.
    """
    for module in modules:
        if modules.n == 1:
            yield module, module.weighted
            continue
        with one_thread():
            grams = gram(module.weighted) if params.scope == "tensor" else row_grams(module.weighted)
            share = _ratio(cosines(grams), modules.n) / modules.n
        yield module, [rows_scaled(delta, share) for delta in module.weighted]


def _ratio(pairs: Tensor, n: int) -> Tensor:
    """Return t for the cosines (…, m, m) of those m of n inputs that are not missing."""
    total = pairs.sum((-2, -1)) - pairs.diagonal(dim1=-2, dim2=-1).sum(-1)
    mean = (total / (n * (n - 1))).clamp(0, 1)
    return n * mean / (1 + (n - 1) * mean)
