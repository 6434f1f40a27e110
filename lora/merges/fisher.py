"""Fisher merging: every entry is averaged by how much each input's answers depend on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from lora.catalogue import param
from lora.elementwise import Elementwise
from lora.merges import MERGES, Merged, Module, Modules
from lora.runtime.fisher import fisher_diagonals
from lora.runtime.probe import SampleParams, probe_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True)
class FisherParams(SampleParams):
    """Parameters of `fisher`."""

    floor: float = param(
        1e-6, "added to every Fisher information, whose mean is 1: large values end in the mean of the inputs", above=0
    )
    scale: float = param(1.0, "factor λ on the merged weight change")


@MERGES.register(
    "fisher",
    params=FisherParams,
    title="Fisher merging",
    summary="Runs the base with each input on its own samples, and averages every entry of the weight changes by how "
    "much the likelihood of that input's answers depends on it.",
    source="Fisher-weighted averaging, arXiv:2111.09832, section 3, with the diagonal Fisher information of the whole "
    "weights at the given answers",
    needs=("base_model", "labels"),
    weights="relative",
    family="data",
    when="When experts of related tasks have samples with answers; where one is much stronger than the others, regmean "
    "keeps more of them.",
    lacks=("scale", "zero_adapter", "low_rank"),
)
def fisher(modules: Modules, params: FisherParams) -> Iterator[tuple[Module, Merged]]:
    """Yield λ·Σ ŵᵢ·Fᵢ∘ΔWᵢ/Σ |ŵᵢ|·Fᵢ, entry by entry, with Fᵢ of `fisher_diagonals` and `floor` added.

    Equal weights are the paper's method, for the base's own weight cancels; a negative weight subtracts an input where
    that input is sensitive. One that lacks the module has ΔWᵢ = 0 there, and holds what it depends on near 0.
    """
    probe = probe_of(modules, "fisher")
    if modules.n == 1:
        for module in modules:
            yield module, [delta.scaled(params.scale) for delta in module.weighted]
        return
    layouts = [module.layout for module in modules]
    for module, diagonals in zip(modules, fisher_diagonals(probe, layouts, params), strict=True):
        yield module, Elementwise(module.deltas, partial(_averaged, module, diagonals, probe.weights, params))


def _averaged(
    module: Module, diagonals: Tensor, weights: Sequence[float], params: FisherParams, rows: slice, entries: Tensor
) -> Tensor:
    given = diagonals.new_tensor(weights)[:, None, None]
    shares = (diagonals[:, rows] + params.floor) * given.abs()
    wanted = entries.mul_(shares[list(module.inputs)]).mul_(given[list(module.inputs)].sign())
    return wanted.sum(0).div_(shares.sum(0)).mul_(params.scale)
