"""Second moments of factors: all that most measures of ΔW need.

With B = [s₁B₁ …] and A = [A₁; …] inner products, subspaces and the spectrum of any weighted sum follow from BᵀB and
AAᵀ, (Σr, Σr). In float64 their products lose directions weaker than about 1e-8 of the strongest, which no measure that
is taken from them would show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from lora.algebra import one_thread, stacked
from lora.lazy_torch import torch

if TYPE_CHECKING:
    from torch import Tensor

    from lora.merges import Module

# √eps: what is weaker than this beside the strongest direction, products of float64 do not tell from rounding
NEGLIGIBLE = 2**-26


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
class Bases:
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


def bases_of(found: Moments) -> Bases:
    """Return bases of every ΔW, from R_B·R_Aᵀ; those of one rank go through in one batch."""
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
    return Bases(columns, rows, count, stable)


def _root_and_inverse(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return R with RᵀR = gram, and its pseudo-inverse; (…, r, r) each."""
    values, vectors = torch.linalg.eigh(gram)
    real = values > NEGLIGIBLE**2 * gram.shape[-1] * values[..., -1:]
    roots = torch.where(real, values, 0).sqrt()
    inverse = torch.where(real, 1 / roots, 0)
    return roots[..., :, None] * vectors.mT, vectors * inverse[..., None, :]


def _root(gram: Tensor) -> Tensor:
    return _root_and_inverse(gram)[0]
