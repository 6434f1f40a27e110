"""SVC: a linear merge whose singular values are corrected for what several inputs put there together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lora.algebra import gram, low_rank_spectrum, one_thread
from lora.catalogue import param
from lora.core_space import NEGLIGIBLE
from lora.lazy_torch import torch
from lora.merges import MERGES, Merged, Module, Modules
from lora.weights import Factors

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SvcParams:
    """Parameters of `svc`."""

    on: Literal["weighted_sum", "multislerp", "karcher"] = param(
        "weighted_sum", "linear merge that is corrected, with its default parameters"
    )
    floor: float = param(
        0.1, "α, the least that an input is taken to have kept of its response in a direction", above=0, maximum=1
    )
    scale: float = param(1.0, "factor on the merged weight change")


@MERGES.register(
    "svc",
    params=SvcParams,
    title="Singular value calibration",
    summary="Merges linearly, then weakens directions in which inputs have been counted several times and "
    "strengthens those in which they have faded.",
    source="Singular value calibration, arXiv:2602.05536, algorithm 1 and equations 4 to 8",
    weights="relative",
    family="spectral",
    when="At a quarter of its strength (scale), for experts of related tasks, whose shared directions a sum would "
    "count several times.",
    lacks=(),
)
def svc(modules: Modules, params: SvcParams) -> Iterator[tuple[Module, Merged]]:
    """Yield U·diag(γ∘σ)·Vᵀ for the merge UΣVᵀ, with γ_r = n_r/Σᵢ max(α, sᵢ) and sᵢ = ⟨u_rᵀΔW, u_rᵀΔWᵢ⟩/‖u_rᵀΔWᵢ‖².

    The sum is over those n_r inputs that respond in the direction u_r at all; for the others sᵢ is undefined.
    """
    for module in modules:
        merged = merge_linearly(params.on, module, modules)
        with one_thread():
            calibrated = _calibrated(merged, module.weighted, params.floor)
        yield module, [term.scaled(params.scale) for term in calibrated]


@dataclass(frozen=True)
class _One:
    """A recipe of one module."""

    module: Module
    n: int
    rank: int | None

    def __iter__(self) -> Iterator[Module]:
        yield self.module


def merge_linearly(on: str, module: Module, modules: Modules) -> Sequence[Factors]:
    """Return the merge of one module by a linear method."""
    recipe = _One(module, modules.n, modules.rank)
    [(_, merged)] = MERGES.get(on).run(recipe, MERGES.parse(on, {}))
    terms: Sequence[Factors] = merged
    return terms


def _calibrated(merged: Sequence[Factors], deltas: Sequence[Factors], floor: float) -> Sequence[Factors]:
    spectrum = low_rank_spectrum(merged)
    if not len(spectrum.sigma):
        return merged
    roots = spectrum.sigma.sqrt()
    U, V = spectrum.B / roots, spectrum.A.T / roots
    kept, count = torch.zeros_like(roots), torch.zeros_like(roots)
    for delta in deltas:
        own, common = _responses(U, spectrum.sigma, V, delta)
        responds = own > NEGLIGIBLE**2 * float(gram([delta]))
        kept += torch.where(responds, (common / own).clamp_min(floor), 0)
        count += responds
    gamma = torch.where(count > 0, count / kept, 1)
    return [Factors(gamma[:, None] * spectrum.A, spectrum.B, 1.0)]


def _responses(U: Tensor, sigma: Tensor, V: Tensor, delta: Factors) -> tuple[Tensor, Tensor]:
    """Return ‖u_rᵀΔWᵢ‖² and ⟨σ_r·v_rᵀ, u_rᵀΔWᵢ⟩ for every direction r of the merge; (k,) each."""
    response = (U.T @ delta.B) * delta.scaling  # times A it is UᵀΔWᵢ
    own = ((response @ (delta.A @ delta.A.T)) * response).sum(1)
    common = sigma * ((V.T @ delta.A.T) * response).sum(1)
    return own, common
