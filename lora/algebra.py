"""Low-rank algebra of ΔW: inner products and truncated spectra without forming ΔW.

Everything runs in float64: the factors are small, so that precision costs little, and sums of many adapters with
different scales keep their small directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lora.lazy_torch import torch
from lora.weights import Factors

if TYPE_CHECKING:
    from torch import Tensor


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


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch on this thread: for thin factors the barriers between threads cost more than they save.

    On a machine with other work they cost tens of times the work itself.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def gram(deltas: Sequence[Factors]) -> Tensor:
    """Return the inner products ⟨ΔW_i, ΔW_j⟩ = s_i·s_j·Σ (B_iᵀB_j)∘(A_iA_jᵀ); (n, n), float64."""
    B, A, members = stacked(deltas)
    products = (B.T @ B) * (A @ A.T)  # (Σr, Σr)
    return members @ products @ members.T


def row_grams(deltas: Sequence[Factors]) -> Tensor:
    """Return the inner products of the k-th rows of all ΔW_i, for every k; (d_out, n, n), float64."""
    B, A, members = stacked(deltas)
    ranks = [delta.A.shape[0] for delta in deltas]
    parts = zip(torch.split(B, ranks, 1), torch.split(A @ A.T, ranks), strict=True)
    rows = [(own @ against) * B @ members.T for own, against in parts]
    return torch.stack(rows, dim=1)


def cosines(grams: Tensor) -> Tensor:
    """Return the cosines of inner products (…, n, n), 0 where a vector is zero."""
    norms = grams.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    inverse = torch.where(norms > 0, 1 / norms, 0)
    return (grams * inverse[..., :, None] * inverse[..., None, :]).clamp(-1, 1)


def rows_scaled(delta: Factors, factors: Tensor) -> Factors:
    """Return ΔW with its k-th row times the k-th of these factors (d_out,), or all of it times a single one ()."""
    return replace(delta, B=factors.reshape(-1, 1) * delta.B)


def transposed(delta: Factors) -> Factors:
    """Return ΔWᵀ; the tensors are shared."""
    return replace(delta, A=delta.B.T, B=delta.A.T)


def factor_sum(deltas: Sequence[Factors], left: Sequence[float], right: Sequence[float]) -> Factors:
    """Return (Σ leftᵢ·Bᵢ)·(Σ rightᵢ·Aᵢ) of factors of one rank, without their scaling.

    It is not a sum of ΔW: the cross terms Bᵢ·Aⱼ are in it, and it depends on how each ΔW is split.
    """
    B = sum((b * delta.B for b, delta in zip(left[1:], deltas[1:], strict=True)), left[0] * deltas[0].B)
    A = sum((a * delta.A for a, delta in zip(right[1:], deltas[1:], strict=True)), right[0] * deltas[0].A)
    return Factors(A, B, 1.0)


def stacked(deltas: Sequence[Factors]) -> tuple[Tensor, Tensor, Tensor]:
    """Return [s_1·B_1 …] (d_out, Σr), [A_1; …] (Σr, d_in), and which of the Σr are whose, (n, Σr) of 0 and 1."""
    B = torch.cat([delta.B * delta.scaling for delta in deltas], dim=1)
    A = torch.cat([delta.A for delta in deltas])
    owners = [i for i, delta in enumerate(deltas) for _ in range(delta.A.shape[0])]
    # a product with 0 and 1 adds up in a fixed order on every device; index_add_ does not
    members = A.new_tensor([[float(owner == i) for owner in owners] for i in range(len(deltas))])
    return B, A, members


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
    ranks = [term.A.shape[0] for term in terms]
    largest_term = max(
        float(torch.linalg.norm(part_left @ part_right.T))
        for part_left, part_right in zip(R_left.split(ranks, 1), R_right.split(ranks, 1), strict=True)
    )
    # terms that cancel leave rounding of their own size, not of the size of what remains
    rank = numerical_rank(sigma, max(left.shape[0], right.shape[0]), max(largest_term, float(sigma[0])))
    return balanced(left @ U[:, :rank], sigma[:rank], Vh[:rank] @ right.T)


def numerical_rank(sigma: Tensor, size: int, scale: float | None = None) -> int:
    """Return how many σ are more than float64 rounding.

    Args:
        sigma: (k,), descending, k >= 1.
        size: the longer side of the matrix.
        scale: magnitude of what the matrix was computed from; None means σ₁.
    """
    largest = float(sigma[0]) if scale is None else scale
    return int((sigma > size * torch.finfo(torch.float64).eps * largest).sum())


def balanced(U: Tensor, sigma: Tensor, Vh: Tensor, energy: float | None = None) -> Spectrum:
    """Split Σ evenly over both sides and fix the signs: files become equal, and rounding hits both alike.

    Args:
        U: (d_out, k). sigma: (k,), positive. Vh: (k, d_in).
        energy: ‖ΔW‖²_F where directions were cut off already; None means Σσ².
    """
    signs = torch.ones_like(sigma)
    if len(sigma):
        signs[U.gather(0, U.abs().argmax(dim=0, keepdim=True))[0] < 0] = -1
    root = signs * sigma.sqrt()
    total = float(sigma.square().sum()) if energy is None else energy
    return Spectrum(root[:, None] * Vh, U * root, sigma, total)
