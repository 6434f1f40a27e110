"""Low-rank algebra of ΔW: inner products and truncated spectra without forming ΔW.

Everything runs in float64: the factors are small, so that precision costs little, and sums of many adapters with
different scales keep their small directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora.lazy_torch import torch

if TYPE_CHECKING:
    from torch import Tensor

    from lora.weights import Factors


@dataclass(frozen=True)
class Spectrum:
    """The best low-rank factors of a ΔW, balanced: B·A with B = U√Σ and A = √Σ·Vᵀ.

    Cutting both to their first k columns and rows gives the best approximation of rank k. Signs are fixed: the
    entry of largest magnitude in every column of B is positive.

    Attributes:
        A: (k, d_in), float64.
        B: (d_out, k), float64.
        sigma: (k,), float64, descending, positive.
        energy: ‖ΔW‖²_F, that of the directions cut off included.
    """

    A: Tensor
    B: Tensor
    sigma: Tensor
    energy: float

    def truncate(self, rank: int) -> Spectrum:
        """Return the best approximation of at most this rank; the tensors are views."""
        return Spectrum(self.A[:rank], self.B[:, :rank], self.sigma[:rank], self.energy)

    @property
    def kept(self) -> float:
        """‖B·A‖²_F."""
        return float(self.sigma.square().sum())


def gram(deltas: Sequence[Factors]) -> Tensor:
    """Return the inner products ⟨ΔW_i, ΔW_j⟩ = s_i·s_j·Σ (B_iᵀB_j)∘(A_iA_jᵀ); (n, n), float64."""
    ranks = [delta.A.shape[0] for delta in deltas]
    B = torch.cat([delta.B * delta.scaling for delta in deltas], dim=1)
    A = torch.cat([delta.A for delta in deltas])
    products = (B.T @ B) * (A @ A.T)  # (Σr, Σr)
    owner = torch.repeat_interleave(torch.arange(len(ranks)), torch.tensor(ranks))
    sums = torch.zeros(len(ranks), products.shape[1], dtype=products.dtype).index_add_(0, owner, products)
    return torch.zeros(len(ranks), len(ranks), dtype=sums.dtype).index_add_(1, owner, sums)


def low_rank_spectrum(terms: Sequence[Factors]) -> Spectrum:
    """Return the whole spectrum of Σ s_i·B_i·A_i, exact up to float64 rounding.

    [B_1 …] = Q_B·R_B and [A_1; …]ᵀ = Q_A·R_A, so that ΔW = Q_B·(R_B·S·R_Aᵀ)·Q_Aᵀ and only a core of at most
    Σr × Σr is decomposed. A Gram matrix instead of QR would lose the small half of the spectrum.

    Args:
        terms: low-rank ΔW of one shape, float64.
    """
    left, R_left = torch.linalg.qr(torch.cat([term.B * term.scaling for term in terms], dim=1))
    right, R_right = torch.linalg.qr(torch.cat([term.A for term in terms]).T)
    U, sigma, Vh = torch.linalg.svd(R_left @ R_right.T, full_matrices=False)
    sigma, rank = numerical_rank(sigma, max(left.shape[0], right.shape[0]))
    return balanced(left @ U[:, :rank], sigma, Vh[:rank] @ right.T, None)


def numerical_rank(sigma: Tensor, size: int) -> tuple[Tensor, int]:
    """Drop the σ that are float64 rounding of a zero in a matrix with this longer side."""
    if not len(sigma):
        return sigma, 0
    kept = sigma[sigma > size * torch.finfo(torch.float64).eps * sigma[0]]
    return kept, len(kept)


def balanced(U: Tensor, sigma: Tensor, Vh: Tensor, energy: float | None) -> Spectrum:
    """Split Σ evenly over both sides and fix the signs: files become equal, and rounding hits both alike."""
    root = sigma.sqrt()
    if len(sigma):
        largest = U.gather(0, U.abs().argmax(dim=0, keepdim=True))[0]
        root_signed = torch.where(largest < 0, -root, root)
    else:
        root_signed = root
    total = float(sigma.square().sum()) if energy is None else energy
    return Spectrum(root_signed[:, None] * Vh, U * root_signed, sigma, total)
