"""NuSLERP: SLERP whose position is given by the weights, of whole modules or of single rows or columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lora.algebra import cosines, gram, one_thread, row_grams, rows_scaled, transposed
from lora.catalogue import param
from lora.lazy_torch import torch
from lora.merges import MERGES, Merged, Module, Modules
from lora.merges.slerp import arc

if TYPE_CHECKING:
    from lora.weights import Factors

NEARLY_PARALLEL = 1 - 2**-40  # beyond it the angle would be rounding


@dataclass(frozen=True)
class NuSlerpParams:
    """Parameters of `nuslerp`."""

    scope: Literal["tensor", "row", "column"] = param(
        "tensor", "what is turned as one: a module's ΔW, its rows (outputs) or its columns (inputs)"
    )


@MERGES.register(
    "nuslerp",
    params=NuSlerpParams,
    title="NuSLERP",
    summary="SLERP at the position that the weights give: half way at equal weights. Turns modules as a whole, or "
    "every row or column by its own angle.",
    source="mergekit, nuslerp with a base model, so that it acts on ΔW",
    weights="relative",
    family="linear",
    when="As slerp, where the share of each of two adapters is given by weights, as a retrieval gives them.",
    lacks=("zero_adapter",),
    max_inputs=2,
)
def nuslerp(modules: Modules, params: NuSlerpParams) -> Iterator[tuple[Module, Merged]]:
    """Yield the point of the arc from ±ΔW₁ to ±ΔW₂ at |w₂|/(|w₁| + |w₂|); the signs are those of the weights.

    Parallel and opposite vectors are interpolated linearly. A vector of zero is at right angles to all.
    """
    for module in modules:
        if modules.n == 1:
            yield module, module.weighted
            continue
        yield module, _turned(module, params.scope)


@one_thread()
def _turned(module: Module, scope: str) -> Sequence[Factors]:
    share = abs(module.weights[-1]) / 2
    t = share if module.inputs[-1] == 1 else 1 - share
    signed = [d.scaled(math.copysign(1, w)) for d, w in zip(module.deltas, module.weights, strict=True)]
    if scope == "column":
        signed = [transposed(delta) for delta in signed]
    grams = gram(signed) if scope == "tensor" else row_grams(signed)
    cosine = cosines(grams)[..., 0, -1] if len(signed) == 2 else torch.zeros_like(grams[..., 0, 0])
    shares = arc(cosine, t, NEARLY_PARALLEL)
    ends = [rows_scaled(delta, shares[i]) for i, delta in zip(module.inputs, signed, strict=True)]
    return [transposed(end) for end in ends] if scope == "column" else ends
