"""Interference: how the ΔW of several adapters relate, module by module and as a whole, from their factors alone.

With B = [s₁B₁ …] and A = [A₁; …] nearly everything follows from the moments BᵀB and AAᵀ, (Σr, Σr): inner products,
subspaces and the spectrum of any weighted sum. In float64 their products lose directions weaker than about 1e-8 of the
strongest, which no measure here would show. Only signs of entries need entries: those of some sampled rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from lora.algebra import cosines, one_thread, stacked
from lora.lazy_torch import torch
from lora.weights import Factors

if TYPE_CHECKING:
    from torch import Tensor

    from lora.merges import Module

SAMPLED_ROWS = 32
ROUNDING = 1e-12  # of energies
ENTRIES_AT_ONCE = 2**22  # counted in float32, which is exact below 2²⁴
# √eps: what is weaker than this beside the strongest direction, products of float64 do not tell from rounding
NEGLIGIBLE = 2**-26
DIGITS, FEW_DIGITS, MANY_INPUTS = 8, 3, 32  # significant digits; few of them in large matrices


@dataclass(frozen=True)
class Moments:
    """What is kept of the ΔW in one module, (Σr, Σr) float64 each.

    Attributes:
        columns: BᵀB with the scalings in B; `rows`: AAᵀ.
        members: (n', Σr) of 0 and 1: which factors are whose.
        inputs: positions in the recipe of these n' inputs.
        shape: (d_out, d_in).
    """

    columns: Tensor
    rows: Tensor
    members: Tensor
    inputs: tuple[int, ...]
    shape: tuple[int, int]

    @property
    def products(self) -> Tensor:
        """⟨ΔWᵢ, ΔWⱼ⟩, (n', n')."""
        return self.members @ (self.columns * self.rows) @ self.members.T

    @property
    def nbytes(self) -> int:
        """What the matrices and the roots that `energies` keeps take in memory."""
        return 4 * self.columns.nbytes + self.members.nbytes

    @one_thread()
    def energies(self, weights: Sequence[float]) -> Tensor:
        """Return σ² of Σ wᵢ·ΔWᵢ, descending, at most min(Σr, d_out, d_in) of them.

        Args:
            weights: of all inputs of the recipe.
        """
        own = self.members.new_tensor([weights[i] for i in self.inputs]) @ self.members
        left, right = self._roots
        sigma: Tensor = torch.linalg.svdvals((left * own) @ right.T)
        return sigma[: min(self.shape)].square()

    @cached_property
    def _roots(self) -> tuple[Tensor, Tensor]:
        """R with RᵀR = BᵀB, and the same of AAᵀ; they do not depend on the weights."""
        return _root(self.columns), _root(self.rows)


def moments(module: Module) -> Moments:
    """Return the moments of one module's ΔW, without their weights."""
    with one_thread():
        B, A, members = stacked(module.deltas)
        layout = module.layout
        return Moments(B.T @ B, A @ A.T, members, module.inputs, (layout.d_out, layout.d_in))


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
        bases = _bases(found)
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


class EnergyCurve:
    """What share of ‖ΔW‖², summed over modules, each rank keeps where all are cut to it."""

    def __init__(self) -> None:
        self._by_rank = torch.zeros(0, dtype=torch.float64)  # Σσ² over modules of the k-th directions
        self._total = 0.0
        self._known: int | None = None  # ranks, where the spectrum of a module ends before its energy does

    def add(self, energies: Tensor, total: float | None = None) -> None:
        """Count a module in by its σ², descending; `total` is ‖ΔW‖² where these are not all."""
        self._by_rank = torch.nn.functional.pad(self._by_rank, (0, max(0, len(energies) - len(self._by_rank))))
        self._by_rank[: len(energies)] += energies.cpu()
        counted = float(energies.sum())
        self._total += counted if total is None else total
        if total is not None and total - counted > ROUNDING * total:
            self._known = min(len(energies), len(energies) if self._known is None else self._known)

    @property
    def kept(self) -> list[float]:
        """What the ranks 1, 2, … keep, up to the last that adds anything or is known; [1.0] where there is nothing."""
        if not self._total:
            return [1.0]
        above = int((self._by_rank > self._total * ROUNDING).sum())
        shares = self._by_rank[: max(1, above)][: self._known].cumsum(0) / self._total
        return [float(f"{share:.{DIGITS}g}") for share in shares.clamp(max=1).tolist()]


@dataclass(frozen=True)
class _Bases:
    """Coefficients that turn factors into orthonormal bases of the ΔW: (Σr, Σr), zero columns for what is no direction.

    Attributes:
        columns: B·columns has the left singular vectors of every ΔW; `rows`: Aᵀ·rows the right ones.
        count: (n',) how many directions each ΔW has.
        stable_rank: (n',).
    """

    columns: Tensor
    rows: Tensor
    count: Tensor
    stable_rank: Tensor


def _bases(found: Moments) -> _Bases:
    """Decompose R_B·R_Aᵀ of every ΔW; those of one rank go through in one batch."""
    columns, rows = torch.zeros_like(found.columns), torch.zeros_like(found.rows)
    count = columns.new_zeros(len(found.members))
    stable = torch.zeros_like(count)
    places = [member.nonzero()[:, 0] for member in found.members]
    for rank in {len(own) for own in places}:
        which = [i for i, own in enumerate(places) if len(own) == rank]
        own = torch.stack([places[i] for i in which])
        block = own[:, :, None], own[:, None, :]  # of the diagonal, (m, rank, rank)
        left, left_inverse = _root_and_inverse(found.columns[block])
        right, right_inverse = _root_and_inverse(found.rows[block])
        U, sigma, Vh = torch.linalg.svd(left @ right.mT)
        real = sigma > NEGLIGIBLE * sigma[:, :1]
        columns[block] = left_inverse @ (U * real[:, None, :])
        rows[block] = right_inverse @ (Vh.mT * real[:, None, :])
        count[which] = real.sum(1).to(count.dtype)
        top = sigma[:, :1].square()
        stable[which] = (sigma.square() / torch.where(top > 0, top, 1)).sum(1)
    return _Bases(columns, rows, count, stable)


def _root_and_inverse(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return R with RᵀR = gram, and its pseudo-inverse; (…, r, r) each."""
    values, vectors = torch.linalg.eigh(gram)
    real = values > NEGLIGIBLE**2 * gram.shape[-1] * values[..., -1:]
    roots = torch.where(real, values, 0).sqrt()
    inverse = torch.where(real, 1 / roots, 0)
    return roots[..., :, None] * vectors.mT, vectors * inverse[..., None, :]


def _root(gram: Tensor) -> Tensor:
    return _root_and_inverse(gram)[0]


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
