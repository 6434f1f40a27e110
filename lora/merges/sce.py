"""SCE: select the entries that differ most, calculate weights from energies, erase minority signs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from lora.algebra import gram
from lora.catalogue import param
from lora.election import EntryRule, Scope, merge_entries, signs_of_total, total_of_agreeing, weigh
from lora.elementwise import entry_blocks, kth_largest
from lora.lazy_torch import torch
from lora.merges import MERGES, Merged, Module, Modules

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SceParams:
    """Parameters of `sce`."""

    density: float = param(
        1.0, "fraction of the entries at which inputs differ that is kept, those that vary most", above=0, maximum=1
    )
    scale: float = param(1.0, "factor λ on the merged weight change")


@MERGES.register(
    "sce",
    params=SceParams,
    title="SCE",
    summary="Keeps entries that vary most between inputs, and averages those that agree by the inputs' energies.",
    source="FuseChat, arXiv:2408.07990, section 3.3; mergekit's sce",
    weights="relative",
    family="elementwise",
    when="When inputs differ in strength and the stronger one should lead, module by module.",
    lacks=("low_rank",),
)
def sce(modules: Modules, params: SceParams) -> Iterator[tuple[Module, Merged]]:
    """Yield λ·Σ cᵢ·xᵢ/Σ cᵢ over those xᵢ = wᵢ·ΔWᵢ whose sign is that of Σ xᵢ, with cᵢ ∝ ‖xᵢ‖² of the module.

    Before that, entries outside the ⌊density·m⌋ of largest variance are set to 0, m the number of those with any;
    inputs that change nothing in the module do not count in the variance.
    """

    def rule_of(scope: Scope) -> EntryRule:
        (module,) = scope
        return _rule(module, params.density)

    return merge_entries(modules, rule_of, params.scale)


def _rule(module: Module, density: float) -> EntryRule:
    """Find the least deviation that is selected and the energy of what is, then fuse by them."""
    energies = gram(module.weighted).diagonal()
    active = energies.nonzero().flatten().tolist()
    if density == 1 or len(active) < 2:
        return partial(_fused, lambda entries: entries, energies.tolist())

    def weighted() -> Iterator[Tensor]:
        for _, entries in entry_blocks(module.deltas):
            yield weigh(module, entries)

    def deviations() -> Iterator[Tensor]:
        return (_deviation(entries[active]) for entries in weighted())

    varying = sum(int(torch.count_nonzero(block)) for block in deviations())
    floor = kth_largest(deviations, max(1, int(density * varying))) if varying else 0.0

    def select(entries: Tensor) -> Tensor:
        return entries.masked_fill_(_deviation(entries[active]) < floor, 0)

    parts = [select(entries).double().square().sum((1, 2)) for entries in weighted()]
    return partial(_fused, select, torch.stack(parts).sum(0).tolist())


def _deviation(entries: Tensor) -> Tensor:
    """Return the standard deviation of (n, b, d_in) over n, exactly 0 where all are equal; (b, d_in), float32."""
    deviation = entries.double().std(0, unbiased=False).float()
    return deviation.masked_fill_(entries.amax(0) == entries.amin(0), 0)


def _fused(
    select: Callable[[Tensor], Tensor], energies: list[float], module: Module, rows: slice, entries: Tensor
) -> Tensor:
    chosen = select(weigh(module, entries))
    elected = signs_of_total(chosen)
    elected.masked_fill_(elected == 0, 1)
    largest = max(energies)  # shares of at most 1 cannot overflow
    shares = [energy / largest if largest else 1.0 for energy in energies]
    return total_of_agreeing(chosen, elected, shares, shares)
