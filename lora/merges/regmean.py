"""RegMean: the one change that answers most like each input does on that input's own samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lora.catalogue import param
from lora.lazy_torch import torch
from lora.merges import MERGES, Merged, Module, Modules
from lora.merges.regmean_core import answered_in_core, row_view
from lora.runtime.probe import SampleParams, View, probe_of

if TYPE_CHECKING:
    from torch import Tensor

    from lora.weights import Factors


@dataclass(frozen=True)
class RegmeanParams(SampleParams):
    """Parameters of `regmean`."""

    off_diagonal: float = param(
        0.95, "what is kept of the Gram matrices beside their diagonal: 1 is least squares", minimum=0, maximum=1
    )


@MERGES.register(
    "regmean",
    params=RegmeanParams,
    title="RegMean",
    summary="Runs the base with each input on its own samples and finds, by least squares per module, the change that "
    "answers most like each of them.",
    source="RegMean, arXiv:2212.09849, section 3, exactly in low rank: every B is kept, every A replaced",
    needs=("base_model", "samples"),
    weights="relative",
    family="data",
    when="First of all where every expert has samples and the base model is at hand: at its own strength it keeps "
    "nearly all that each of two to four experts knows.",
    lacks=("scale", "zero_adapter"),
)
def regmean(modules: Modules, params: RegmeanParams) -> Iterator[tuple[Module, Merged]]:
    """Yield Σ ŵᵢ·ΔWᵢ·Gᵢ·(Σ Gⱼ)⁻¹ with Gᵢ = Σ xxᵀ over what goes into the module while input i is on the base.

    The base's own weight cancels. An embedding's G is as large as its vocabulary: there the rule is `regmean_core`.
    """
    probe = probe_of(modules, "regmean")
    for module, grams in zip(modules, probe.grams(map(_view, modules), len(modules), params), strict=True):
        if module.layout.kind == "embedding":
            yield module, (answered_in_core(module, grams),)
        else:
            yield module, _answered(module, [_damped(gram, params.off_diagonal) for gram in grams])


def _view(module: Module) -> View:
    if module.layout.kind == "embedding":
        return row_view(module)
    return View(module.layout.path, module.layout.d_in)


def _damped(gram: Tensor, off_diagonal: float) -> Tensor:
    return off_diagonal * gram + (1 - off_diagonal) * torch.diag(gram.diagonal())


def _answered(module: Module, grams: Sequence[Tensor]) -> list[Factors]:
    """Return ŵᵢ·sᵢ·Bᵢ·(Aᵢ·Gᵢ·(Σ G)⁻¹) of each input that adapts the module."""
    total = sum(grams[1:], grams[0])
    lower, failed = torch.linalg.cholesky_ex(total)
    answers = [delta.A @ grams[i] for i, delta in zip(module.inputs, module.weighted, strict=True)]
    if int(failed):  # features that no sample has
        inverse = torch.linalg.pinv(total, hermitian=True)
        rows = [answer @ inverse for answer in answers]
    else:
        rows = [torch.cholesky_solve(answer.T, lower).T for answer in answers]
    return [replace(delta, A=A) for delta, A in zip(module.weighted, rows, strict=True)]
