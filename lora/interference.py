"""Interference: how the ΔW of several adapters relate, module by module and as a whole, from their factors alone.

Nearly everything follows from `lora.moments`. Only signs of entries need entries: those of some sampled rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lora.algebra import cosines, one_thread
from lora.lazy_torch import torch
from lora.moments import Moments, bases_of, moments
from lora.weights import Factors

if TYPE_CHECKING:
    from torch import Tensor

    from lora.merges import Module

SAMPLED_ROWS = 32
ENTRIES_AT_ONCE = 2**22  # counted in float32, which is exact below 2²⁴
DIGITS, FEW_DIGITS, MANY_INPUTS = 8, 3, 32  # significant digits; few of them in large matrices


@dataclass(frozen=True)
class ModuleInterference:
    """One module; (n', n') each, symmetric, float64, in the order of `inputs`.

    Attributes:
        products: ⟨ΔWᵢ, ΔWⱼ⟩.
        overlap: O_B = ‖UᵢᵀUⱼ‖²_F/min(r) of the column spaces, what the adapters write to: 0 orthogonal, 1 one within
            the other. `overlap_in`: O_A of the row spaces, what they read. 0 where a ΔW is zero.
        chance, chance_in: (n',) r/d, what two random subspaces would share; of a pair the larger counts.
        sign_conflict: share of the entries, among those where both are not zero, whose signs differ; 0.5 is
            independent, NaN where there is none.
        stable_rank: (n',) Σσ²/σ₁², 0 where ΔW = 0.
    """

    inputs: tuple[int, ...]
    products: Tensor
    overlap: Tensor
    overlap_in: Tensor
    chance: Tensor
    chance_in: Tensor
    sign_conflict: Tensor
    stable_rank: Tensor


def module_interference(module: Module, known: Moments | None = None) -> ModuleInterference:
    """Return how the ΔW of one module relate; weights play no part.

    Args:
        known: its moments, where they are at hand.
    """
    found = known or moments(module)
    with one_thread():
        bases = bases_of(found)
        ranks = bases.count.clamp_min(1)
        smaller = torch.minimum(ranks[:, None], ranks)
        d_out, d_in = found.shape
        return ModuleInterference(
            inputs=found.inputs,
            products=found.products,
            overlap=_shared(found.columns, bases.columns, found.members) / smaller,
            overlap_in=_shared(found.rows, bases.rows, found.members) / smaller,
            chance=bases.count / d_out,
            chance_in=bases.count / d_in,
            sign_conflict=_sign_conflict(module.deltas, sampled_rows(module.layout.path, d_out)),
            stable_rank=bases.stable_rank,
        )


def sampled_rows(path: str, d_out: int) -> list[int]:
    """Return up to SAMPLED_ROWS rows of a module, ascending: the same at every call."""
    seed = int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "little")
    chosen = np.random.Generator(np.random.Philox(seed)).choice(d_out, min(SAMPLED_ROWS, d_out), replace=False)
    return sorted(chosen.tolist())


class Interference:
    """The measures of whole adapters: those of the modules, weighted by ‖ΔWᵢ‖·‖ΔWⱼ‖ there.

    Attributes:
        products: ⟨ΔWᵢ, ΔWⱼ⟩ over all modules, (n, n).
    """

    def __init__(self, n: int) -> None:
        self.products = torch.zeros(n, n, dtype=torch.float64)
        self._pairs = {name: _Mean(n, n) for name in ("overlap", "overlap_in", "sign_conflict")}
        self._single = {name: _Mean(n) for name in ("chance", "chance_in", "stable_rank")}

    def add(self, found: ModuleInterference) -> None:
        """Count a module in."""
        owners = torch.tensor(found.inputs)
        products = found.products.cpu()
        self.products[owners[:, None], owners] += products
        energy = products.diagonal().clamp_min(0)
        norms = energy.sqrt()
        for name, mean in self._pairs.items():
            mean.add((owners[:, None], owners), getattr(found, name).cpu(), norms[:, None] * norms)
        for name, mean in self._single.items():
            mean.add((owners,), getattr(found, name).cpu(), energy)

    @property
    def norms(self) -> list[float]:
        """‖ΔWᵢ‖_F over all modules."""
        norms: list[float] = self.products.diagonal().clamp_min(0).sqrt().tolist()
        return norms

    def as_json(self) -> dict[str, Any]:
        """Return `{cosine, overlap, overlap_in, overlap_chance, sign_conflict, stable_rank}` by input.

        Matrices are (n, n). `overlap_chance` is `{out, in}`, a number per input each. Two adapters without a common
        module have overlap 0 and no sign conflict, None.
        """
        n = len(self.products)
        digits = DIGITS if n <= MANY_INPUTS else FEW_DIGITS
        shown = {"cosine": _listed(cosines(self.products), digits)}
        shown |= {name: _listed(mean.value, digits) for name, mean in self._pairs.items() if name != "sign_conflict"}
        conflict = self._pairs["sign_conflict"]
        single = {name: _listed(mean.value, DIGITS) for name, mean in self._single.items()}
        return shown | {
            "overlap_chance": {"out": single["chance"], "in": single["chance_in"]},
            "sign_conflict": _listed(torch.where(conflict.weight > 0, conflict.value, torch.nan), digits),
            "stable_rank": single["stable_rank"],
        }


class _Mean:
    """A weighted mean in every cell; NaN does not count."""

    def __init__(self, *shape: int) -> None:
        self.total, self.weight = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))

    def add(self, cells: tuple[Tensor, ...], values: Tensor, weights: Tensor) -> None:
        counted = torch.where(values.isnan(), 0, weights)
        self.total[cells] += counted * values.nan_to_num(0.0)
        self.weight[cells] += counted

    @property
    def value(self) -> Tensor:
        """0 where nothing was counted."""
        return self.total / torch.where(self.weight > 0, self.weight, 1)


def _shared(gram: Tensor, coefficients: Tensor, members: Tensor) -> Tensor:
    """Return ‖UᵢᵀUⱼ‖²_F; (n', n')."""
    cosines_of_directions = coefficients.T @ gram @ coefficients
    return members @ cosines_of_directions.square() @ members.T


def _sign_conflict(deltas: Sequence[Factors], rows: Sequence[int]) -> Tensor:
    """Return the share of differing signs among the entries of these rows where both are not zero; (n', n')."""
    both = deltas[0].A.new_zeros(len(deltas), len(deltas))
    agreement = torch.zeros_like(both)
    at_once = max(1, ENTRIES_AT_ONCE // (len(deltas) * deltas[0].A.shape[1]))
    for start in range(0, len(rows), at_once):
        chosen = torch.tensor(rows[start : start + at_once], device=both.device)
        entries = torch.stack([delta.scaling * delta.B[chosen] @ delta.A for delta in deltas])
        signs = entries.flatten(1).sign().float()
        agreement += signs @ signs.T
        both += signs.abs() @ signs.abs().T
    return (both - agreement) / (2 * both)


def _listed(values: Tensor, digits: int) -> list[Any]:
    """Return nested lists with None for NaN."""
    if values.dim() > 1:
        return [_listed(row, digits) for row in values]
    return [None if value != value else float(f"{value:.{digits}g}") for value in values.tolist()]
