"""Exact spectra of many B·A at once: singular values and as many right singular vectors as are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lora.lazy_torch import torch

if TYPE_CHECKING:
    from torch import Tensor

# κ(A)² · 1e-16 bounds the relative error of the Gram route; beyond this ratio QR is used
WELL_CONDITIONED = 1e-4


def spectra(factors: Sequence[tuple[Tensor, Tensor]], directions: int | None = None) -> list[tuple[Tensor, Tensor]]:
    """Return the right singular vectors and all singular values of every B·A, without forming it.

    Args:
        factors: of each (A (r, d_in), B (d_out, r)), in any float dtype; ranks may differ.
        directions: how many vectors of each; None means all r. Modules of one rank go through in one batch.
    Returns: of each (V (k, d_in), sigma (r,)), float64. The rows of V have length 1, and their entry of largest
        magnitude is positive; where σ = 0 exactly, and beyond the r-th, they are zero. sigma descends.
    """
    moments = [_moments(A, B) for A, B in factors]
    by_rank: dict[int, list[int]] = {}
    for i, (A, _) in enumerate(factors):
        by_rank.setdefault(A.shape[0], []).append(i)
    results: dict[int, tuple[Tensor, Tensor]] = {}
    for rank, members in by_rank.items():
        count = rank if directions is None else min(directions, rank)
        R_A, sound_a = _cholesky(torch.stack([moments[i][0] for i in members]))
        R_B, sound_b = _cholesky(torch.stack([moments[i][1] for i in members]))
        # Aᵀ = Q_A·R_A and B = Q_B·R_B, hence B·A = Q_B·(R_B·R_Aᵀ)·Q_Aᵀ with Q_A = Aᵀ·R_A⁻¹
        _, sigma, Vh = torch.linalg.svd(R_B @ R_A.mT)
        coordinates = torch.linalg.solve_triangular(R_A, Vh[:, :count].mT, upper=True).mT
        for k, i in enumerate(members):
            A, B = factors[i]
            if sound_a[k] and sound_b[k]:
                results[i] = _canonical(coordinates[k] @ A.double()), sigma[k]
            else:
                results[i] = _by_qr(A.double(), B.double(), count)
    return [results[i] for i in range(len(factors))]


def _moments(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Return AAᵀ and BᵀB, (r, r) float64: products of float32 numbers are exact there."""
    A, B = A.double(), B.double()
    return A @ A.T, B.T @ B


def _cholesky(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Return upper factors of a batch (n, r, r), and which are exact enough; the others become identities."""
    R, info = torch.linalg.cholesky_ex(moments, upper=True)
    diagonal = R.diagonal(dim1=-2, dim2=-1)
    sound = (info == 0) & (diagonal.amin(-1) > WELL_CONDITIONED * diagonal.amax(-1))
    return torch.where(sound[:, None, None], R, torch.eye(R.shape[-1], dtype=R.dtype)), sound


def _by_qr(A: Tensor, B: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return (V, sigma) where the factors are (nearly) rank-deficient, or r exceeds d_in or d_out."""
    Q, R_A = torch.linalg.qr(A.T)
    _, R_B = torch.linalg.qr(B)
    _, sigma, Vh = torch.linalg.svd(R_B @ R_A.T)
    missing = A.shape[0] - len(sigma)
    sigma = torch.nn.functional.pad(sigma, (0, missing))
    known = Vh[:count] @ Q.T
    V = torch.nn.functional.pad(_canonical(known), (0, 0, 0, count - len(known)))
    return torch.where(sigma[:count, None] > 0, V, 0.0), sigma


def _canonical(V: Tensor) -> Tensor:
    """Return V with rows of length 1, of which the entry of largest magnitude is positive."""
    largest = V.gather(1, V.abs().argmax(dim=1, keepdim=True))
    return V * torch.copysign(1 / torch.linalg.vector_norm(V, dim=1, keepdim=True), largest)
