"""What a merge kept, what it lost, what each input put in, and how the inputs relate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora.algebra import Spectrum, one_thread, stacked
from lora.energy import EnergyCurve
from lora.interference import Interference, module_interference
from lora.lazy_torch import torch
from lora.mergeable import missing_warnings
from lora.moments import moments
from lora.recipe import MergeInput
from lora.serving_rules import MAX_LORA_RANKS

if TYPE_CHECKING:
    from torch import Tensor

    from lora.layout import ModuleLayout
    from lora.merges import Module

DUPLICATE_COSINE = 0.9999
DIGITS = 8  # significant ones, of norms
DECIMALS = 6  # of shares
# Of inputs and modules. With more, what is told of every input in every module would take megabytes: it is told by
# layer only.
MANY_PAIRS = 50_000
NO_LAYER = "none"
WHOLE = 1 - 1e-6

MergeReport = dict[str, Any]


@dataclass(frozen=True)
class _Measured:
    """One module. Of all inputs, (n,) float64, zero where they lack the module.

    Attributes:
        norms: ‖ΔWᵢ‖_F.
        parts: ⟨wᵢ·ΔWᵢ, ΔW⟩ with the merged ΔW.
        energy: ‖ΔW‖²_F.
    """

    layout: ModuleLayout
    norms: Tensor
    parts: Tensor
    energy: float


class Measurements:
    """What is measured of every module while a merge runs.

    The merged ΔW is measured at the file's rank where this is known beforehand, else whole.

    Args:
        n: number of inputs of the recipe.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.modules: list[_Measured] = []
        self._interference = Interference(n)
        self._passed = torch.zeros(2, n, dtype=torch.float64)  # ⟨ΔWᵢ, ΔW⟩ and ‖UᵀΔWᵢ‖², over all modules

    def add(self, module: Module, merged: Spectrum) -> None:
        """Measure a module and what became of it."""
        known = moments(module)
        found = module_interference(module, known)
        self._interference.add(found)
        owners = torch.tensor(module.inputs)
        norms, inner, own = torch.zeros(3, self.n, dtype=torch.float64)
        norms[owners] = found.products.diagonal().clamp_min(0).sqrt().cpu()
        inner[owners], own[owners] = _responses(module, merged, known.rows)
        self._passed += torch.stack([inner, own])
        weights = torch.zeros(self.n, dtype=torch.float64)
        weights[owners] = torch.tensor(module.weights, dtype=torch.float64)
        self.modules.append(_Measured(module.layout, norms, weights * inner, merged.kept))

    def interference(self) -> dict[str, Any]:
        """As `Interference.as_json`, and `response`: by input ⟨ΔWᵢ, ΔW⟩/‖UᵀΔWᵢ‖² with the merged ΔW = UΣVᵀ.

        It is SVC's s over all directions: how much of what the input does in the merge's own directions the merge
        does. Above 1 it is counted more than once, None where the input does nothing there.
        Source: singular value calibration, arXiv:2602.05536, section 4.
        """
        inner, own = self._passed.tolist()
        response = [_rounded(a / b) if b > 0 else None for a, b in zip(inner, own, strict=True)]
        return self._interference.as_json() | {"response": response}

    @property
    def norms(self) -> dict[str, Any]:
        """`{in: by input, out}`: ‖ΔW‖ over all modules, before and after."""
        after = math.sqrt(sum(module.energy for module in self.modules))
        return {"in": _rounded_list(self._interference.norms), "out": _rounded(after)}

    @property
    def contributions(self) -> list[float]:
        """By input ⟨wᵢ·ΔWᵢ, ΔW⟩/‖ΔW‖² over all modules. In a weighted sum they add up to 1."""
        return _shares(self.modules, self.n)

    @property
    def by_layer(self) -> list[dict[str, Any]]:
        """`[{layer, contribution, norm_in, norm_out}]`, layers in order; what is in none is in "none"."""
        layers: dict[str, list[_Measured]] = {}
        for module in self.modules:
            layers.setdefault(_layer(module.layout.path), []).append(module)
        order = sorted(layers, key=lambda layer: (not layer.isdigit(), int(layer) if layer.isdigit() else 0))
        return [{"layer": layer} | self._of_layer(layers[layer]) for layer in order]

    def _of_layer(self, modules: Sequence[_Measured]) -> dict[str, Any]:
        norms = torch.stack([module.norms for module in modules]).square().sum(0).sqrt()
        after = math.sqrt(sum(module.energy for module in modules))
        return {
            "contribution": _shares(modules, self.n),
            "norm_in": _rounded_list(norms.tolist()),
            "norm_out": _rounded(after),
        }


@one_thread()
def _responses(module: Module, merged: Spectrum, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return ⟨ΔWᵢ, ΔW⟩ and ‖UᵀΔWᵢ‖²_F of the inputs that adapt the module, with the merged ΔW = UΣVᵀ; (n',) each.

    Args:
        rows: AAᵀ of the module's factors, (Σr, Σr).
    """
    B, A, members = stacked(module.deltas)
    left = merged.B.T @ B  # √Σ·Uᵀ·B
    inner = members @ (left * (merged.A @ A.T)).sum(0)
    response = left / merged.sigma.sqrt()[:, None]
    own = members @ ((response @ (rows * (members.T @ members))) * response).sum(0)
    return inner.cpu(), own.cpu()


def merge_report(
    inputs: Sequence[MergeInput],
    measured: Measurements,
    spectra: Sequence[tuple[Tensor, float]],
    rank: int,
    noted: Sequence[dict[str, str]] = (),
) -> MergeReport:
    """Return the report of a merge, ready for JSON; under 2 MB for 100 inputs and 2,000 modules.

    Where there are many inputs and modules, `norm_in` and `contribution` of a module are empty; layers have them.

    Args:
        measured: of every merged module.
        spectra: (σ, ‖ΔW‖²_F) of every merged module, in the same order.
        rank: what the spectra are cut to.
        noted: warnings that came up on the way.
    """
    curve = EnergyCurve()
    for sigma, energy in spectra:
        curve.add(sigma.square(), energy)
    rows = _module_rows(measured, spectra, rank)
    kept = sum(float(sigma[:rank].square().sum()) for sigma, _ in spectra)
    total = sum(energy for _, energy in spectra)
    interference = measured.interference()
    warnings = missing_warnings(inputs) + list(noted) + _duplicate_warnings(inputs, interference["cosine"])
    if total == 0:
        warnings.append({"code": "zero_result", "message": "The inputs cancel each other: the merge changes nothing."})
    return _losses(kept, total) | {
        "norms": measured.norms,
        "contributions": measured.contributions,
        "by_layer": measured.by_layer,
        "energy": energy_rows(curve.kept, rank),
        "per_module": rows,
        "interference": interference,
        "warnings": warnings,
    }


def energy_rows(kept: Sequence[float], *ranks: int) -> list[dict[str, Any]]:
    """Return `[{rank, kept}]`, ascending: for the ranks that vLLM serves, some lower ones, these, and the whole.

    Args:
        kept: what ranks 1, 2, … keep; above the last there is no more to know.
    """
    is_whole = kept[-1] > WHOLE
    end = next((rank for rank in MAX_LORA_RANKS if rank >= len(kept)), len(kept)) if is_whole else len(kept)
    shown = {rank for rank in (1, 2, 4, len(kept), *MAX_LORA_RANKS) if rank <= end}
    shown |= {rank for rank in ranks if is_whole or rank <= len(kept)}
    return [{"rank": rank, "kept": kept[min(rank, len(kept)) - 1]} for rank in sorted(shown)]


def _module_rows(measured: Measurements, spectra: Sequence[tuple[Tensor, float]], rank: int) -> list[dict[str, Any]]:
    is_long = len(measured.modules) * measured.n > MANY_PAIRS
    rows = []
    for module, (sigma, energy) in zip(measured.modules, spectra, strict=True):
        kept = float(sigma[:rank].square().sum())
        row = {"path": module.layout.path, "rank": min(rank, len(sigma))} | _losses(kept, energy)
        row |= {
            "norm_in": [] if is_long else _rounded_list(module.norms.tolist()),
            "norm_out": _rounded(math.sqrt(kept)),
        }
        rows.append(row | {"contribution": [] if is_long else _shares([module], measured.n)})
    return rows


def _shares(modules: Sequence[_Measured], n: int) -> list[float]:
    """Return the inputs' shares of ‖ΔW‖² over these modules, 0 where nothing came out."""
    energy = sum(module.energy for module in modules)
    parts = sum((module.parts for module in modules), torch.zeros(n, dtype=torch.float64))
    return [round(part / energy, DECIMALS) if energy else 0.0 for part in parts.tolist()]


def _layer(path: str) -> str:
    """Return the first number of a path, such as "3" of `model.layers.3.self_attn.q_proj`."""
    return next((part for part in path.split(".") if part.isdigit()), NO_LAYER)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _rounded_list(values: Sequence[float]) -> list[float]:
    return [_rounded(value) for value in values]


def _losses(kept: float, energy: float) -> dict[str, float]:
    share = min(kept / energy, 1.0) if energy else 1.0
    return {"energy_kept": share, "relative_error": math.sqrt(max(0.0, 1 - share))}


def _duplicate_warnings(inputs: Sequence[MergeInput], cosine: list[list[float]]) -> list[dict[str, str]]:
    return [
        {
            "code": "near_duplicate",
            "message": f"{inputs[i].name} and {inputs[j].name} change the base in nearly the same way "
            f"(cosine {cosine[i][j]:.5f}); their common part counts twice.",
        }
        for i in range(len(inputs))
        for j in range(i + 1, len(inputs))
        if cosine[i][j] > DUPLICATE_COSINE
    ]
