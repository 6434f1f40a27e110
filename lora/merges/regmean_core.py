"""RegMean in the core space: what each input answers to its own samples, within the directions of the inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora.algebra import one_thread
from lora.core_space import CoreSpace, compact_svd, core_space
from lora.lazy_torch import torch
from lora.merges import MERGES, Merged, Module, Modules
from lora.runtime.probe import SampleParams, View, probe_of
from lora.weights import Factors

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RegmeanCoreParams(SampleParams):
    """Parameters of `regmean_core`."""


@MERGES.register(
    "regmean_core",
    params=RegmeanCoreParams,
    title="RegMean in core space",
    summary="Runs the base with each input on its own samples and finds the change that answers, in the directions "
    "that the inputs read, most like each of them: RegMean from small matrices.",
    source="RegMean, arXiv:2212.09849, section 3, on x projected to the inputs' joint row space; with a shared A it is "
    "LoRM, arXiv:2411.06916, section 3",
    needs=("base_model", "samples"),
    weights="relative",
    family="data",
    when="When regmean takes too much memory, as on bases with thousands of features per layer; it keeps less than "
    "regmean and more than any method without data.",
    lacks=("scale", "zero_adapter"),
)
def regmean_core(modules: Modules, params: RegmeanCoreParams) -> Iterator[tuple[Module, Merged]]:
    """Yield Q_B·(Σ Mᵢ·Pᵢ)·(Σ Pᵢ)⁺·Qᵀ with Pᵢ = Σ zzᵀ of z = Qᵀ·x, over what goes in while input i is on the base.

    Q is a basis of the rows of all the ΔWᵢ, and Mᵢ = Q_Bᵀ·ΔWᵢ·Q. An input that lacks the module wants no change there,
    and its samples say so.
    """
    probe = probe_of(modules, "regmean_core")
    for module, grams in zip(modules, probe.grams(map(row_view, modules), len(modules), params), strict=True):
        yield module, (answered_in_core(module, grams),)


def row_view(module: Module) -> View:
    """Return the view of a module's input in the directions that its ΔWᵢ read."""
    basis = _rows(core_space(module.weighted))
    return View(module.layout.path, basis.shape[1], basis)


def answered_in_core(module: Module, grams: Sequence[Tensor]) -> Factors:
    """Return the change that answers most like each ΔWᵢ, over these Gram matrices of `row_view`."""
    space = core_space(module.weighted)
    basis, total = _rows(space), sum(grams[1:], grams[0])
    with one_thread():
        wanted = total.new_zeros(space.left.shape[1], total.shape[1])
        for core, position in zip(space.cores, space.positions, strict=True):
            wanted += core.matrix @ space.right.T @ basis @ grams[module.inputs[position]]
        return Factors(wanted @ torch.linalg.pinv(total, hermitian=True) @ basis.T, space.left, 1.0)


@one_thread()
def _rows(space: CoreSpace) -> Tensor:
    """Return an orthonormal basis of the rows of all ΔW, (d_in, k); `space.right` may span more than these."""
    if not space.cores:
        return space.right[:, :0]
    return space.right @ compact_svd(torch.cat([core.V for core in space.cores], dim=1))[0]
