"""Arrow: per module, the input direction that an adapter stretches most."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora.algebra import one_thread
from lora.lazy_torch import torch
from lora.prototypes import PROTOTYPES
from lora.weights import AdapterFile

if TYPE_CHECKING:
    from torch import Tensor

    from lora.layout import Layout

# κ(A)² · 1e-16 bounds the relative error of the Gram route; beyond this ratio QR is used
WELL_CONDITIONED = 1e-4


def arrow(A: Tensor, B: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """Return the top right singular vector of scaling·B·A and all its singular values.

    Args:
        A: (r, d_in). B: (d_out, r). Any float dtype.
        scaling: s of ΔW = s·B·A; it changes σ, never v.
    Returns: (v (d_in,), sigma (r,)), float32. v has length 1 and its entry of largest magnitude is positive; sigma
        descends. An untrained module (ΔW = 0) has zeros in both.
    Source: Ostapenko et al., arXiv:2405.11157, Arrow prototypes; here without forming B·A and without iterating.
    """
    with one_thread():
        [(v, sigma)] = _spectra([(A, B)])
        return v.float(), (abs(scaling) * sigma).float()


@PROTOTYPES.register(
    "arrow",
    title="Arrow",
    summary="Per module, the unit vector that the weight change stretches most.",
    source="Arrow, arXiv:2405.11157; exact singular vectors instead of power iterations",
    space="module",
)
def arrow_file(path: Path, layout: Layout) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Return the Arrow vectors of an adapter file and what its spectra say about every module.

    Args:
        path: the safetensors file; layout: its layout.
    Returns: ({path: v (d_in,) float32} of the linear modules, and for all modules, by path,
        `{path, rank, d_in, d_out, scaling, norm, sigma, stable_rank}` with norm = ‖ΔW‖_F and
        stable_rank = Σσ²/σ₁², 0 where ΔW = 0).
    """
    vectors, facts = {}, []
    with one_thread(), AdapterFile(path, layout) as file:
        factors = [(found.A, found.B) for found in map(file.factors, file.paths)]
        for module, (v, unscaled) in zip(layout.modules.values(), _spectra(factors), strict=True):
            if module.kind == "linear":
                vectors[module.path] = v.float()
            sigma = abs(module.scaling) * unscaled
            energy, top = float(sigma.square().sum()), float(sigma[0])
            facts.append(
                {
                    "path": module.path,
                    "rank": module.rank,
                    "d_in": module.d_in,
                    "d_out": module.d_out,
                    "scaling": module.scaling,
                    "norm": energy**0.5,
                    "sigma": sigma.tolist(),
                    "stable_rank": energy / top**2 if top else 0.0,
                }
            )
    return vectors, facts


def _moments(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Return AAᵀ and BᵀB, (r, r) float64: products of float32 numbers are exact there."""
    A, B = A.double(), B.double()
    return A @ A.T, B.T @ B


def _spectra(factors: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Return (v (d_in,), sigma (r,)) of every B·A, float64; the modules of one rank go through in one batch."""
    moments = [_moments(A, B) for A, B in factors]
    by_rank: dict[int, list[int]] = {}
    for i, (A, _) in enumerate(factors):
        by_rank.setdefault(A.shape[0], []).append(i)
    results: dict[int, tuple[Tensor, Tensor]] = {}
    for members in by_rank.values():
        R_A, sound_a = _cholesky(torch.stack([moments[i][0] for i in members]))
        R_B, sound_b = _cholesky(torch.stack([moments[i][1] for i in members]))
        # Aᵀ = Q_A·R_A and B = Q_B·R_B, hence B·A = Q_B·(R_B·R_Aᵀ)·Q_Aᵀ with Q_A = Aᵀ·R_A⁻¹
        _, sigma, Vh = torch.linalg.svd(R_B @ R_A.mT)
        coordinates = torch.linalg.solve_triangular(R_A, Vh[:, 0, :, None], upper=True)[..., 0]
        for k, i in enumerate(members):
            A, B = factors[i]
            if sound_a[k] and sound_b[k]:
                results[i] = _canonical(coordinates[k] @ A.double()), sigma[k]
            else:
                results[i] = _by_qr(A.double(), B.double())
    return [results[i] for i in range(len(factors))]


def _cholesky(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Return upper factors of a batch (n, r, r), and which are exact enough; the others become identities."""
    R, info = torch.linalg.cholesky_ex(moments, upper=True)
    diagonal = R.diagonal(dim1=-2, dim2=-1)
    sound = (info == 0) & (diagonal.amin(-1) > WELL_CONDITIONED * diagonal.amax(-1))
    return torch.where(sound[:, None, None], R, torch.eye(R.shape[-1], dtype=R.dtype)), sound


def _by_qr(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Return (v, sigma) where the factors are (nearly) rank-deficient, or r exceeds d_in or d_out."""
    Q, R_A = torch.linalg.qr(A.T)
    _, R_B = torch.linalg.qr(B)
    _, sigma, Vh = torch.linalg.svd(R_B @ R_A.T)
    padded = torch.nn.functional.pad(sigma, (0, A.shape[0] - len(sigma)))
    return (_canonical(Q @ Vh[0]) if sigma[0] > 0 else torch.zeros_like(A[0])), padded


def _canonical(v: Tensor) -> Tensor:
    """Return v with length 1 and the sign that makes its entry of largest magnitude positive."""
    return v * torch.copysign(1 / torch.linalg.vector_norm(v), v[v.abs().argmax()])
