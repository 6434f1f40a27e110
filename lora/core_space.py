"""The core space of several ΔW: all that a spectral merge needs of them, in matrices of at most Σr × Σr.

[B₁ … Bₙ] = Q_B·R_B and [A₁; …; Aₙ]ᵀ = Q_A·R_A, so that ΔWᵢ = Q_B·Mᵢ·Q_Aᵀ with the core Mᵢ = sᵢ·R_B[:, i]·R_A[:, i]ᵀ.
A rule that depends on no coordinates, f(P·X₁·Qᵀ, …) = P·f(X₁, …)·Qᵀ for orthonormal P and Q, gives from the cores
exactly what it gives from the ΔWᵢ, in O((d_out + d_in)·(Σr)²) instead of O(d_out·d_in·min(d_out, d_in)).
Source: Core Space merging, arXiv:2509.17786. Its reference bases come from SVDs; QR spans the same spaces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from lora.algebra import numerical_rank, one_thread
from lora.lazy_torch import torch
from lora.weights import Factors

if TYPE_CHECKING:
    from torch import Tensor

    from lora.merges import Merged, Module, Modules

# √eps: what is weaker than this, relative to what it was computed from, is rounding; a method that brings many
# directions to one strength must not bring it up
NEGLIGIBLE = 2**-26


@dataclass(frozen=True)
class Core:
    """The compact SVD of one ΔW ≠ 0 in core coordinates: U·diag(sigma)·Vᵀ, whatever the factors of its file were.

    Attributes:
        U: (k_out, r), orthonormal columns, float64; r is the numerical rank.
        sigma: (r,), descending, positive.
        V: (k_in, r), orthonormal columns.
    """

    U: Tensor
    sigma: Tensor
    V: Tensor

    @property
    def matrix(self) -> Tensor:
        """M, (k_out, k_in)."""
        return (self.U * self.sigma) @ self.V.T

    @property
    def norm(self) -> float:
        """‖ΔW‖_F."""
        return float(torch.linalg.norm(self.sigma))


@dataclass(frozen=True)
class CoreSpace:
    """Orthonormal bases of the joint column and row spaces of several ΔW, and the ΔW in them.

    Attributes:
        left: Q_B, (d_out, k_out), k_out = min(d_out, Σr), float64.
        right: Q_A, (d_in, k_in).
        cores: those ΔW that are not zero, in order.
        positions: where these were among the ΔW.
    """

    left: Tensor
    right: Tensor
    cores: tuple[Core, ...]
    positions: tuple[int, ...]

    def lift(self, core: Tensor) -> Factors:
        """Return Q_B·core·Q_Aᵀ for a core (k_out, k_in)."""
        return Factors(core @ self.right.T, self.left, 1.0)


CoreRule: TypeAlias = Callable[[Sequence[Core]], "Tensor"]
"""Maps two cores or more, none of them zero, to the merged core (k_out, k_in)."""


@one_thread()
def core_space(deltas: Sequence[Factors]) -> CoreSpace:
    """Return the core space of ΔW of one shape; exact up to float64 rounding, also where Σr exceeds a side.

    A ΔW counts as zero, and a direction of it as absent, where it is no larger than the rounding of the largest
    rank-one term of its own: neither the split into factors nor the scale of the other ΔW matters.
    """
    left, R_left = torch.linalg.qr(torch.cat([delta.B * delta.scaling for delta in deltas], dim=1))
    right, R_right = torch.linalg.qr(torch.cat([delta.A for delta in deltas]).T)
    ranks = [delta.A.shape[0] for delta in deltas]
    size = max(left.shape[0], right.shape[0])
    parts = zip(R_left.split(ranks, 1), R_right.split(ranks, 1), strict=True)
    cores = [_core(part_left, part_right, size) for part_left, part_right in parts]
    positions = tuple(i for i, core in enumerate(cores) if len(core.sigma))
    return CoreSpace(left, right, tuple(cores[i] for i in positions), positions)


def merge_cores(modules: Modules, rule: CoreRule, scale: float) -> Iterator[tuple[Module, Merged]]:
    """Yield scale times the merge of every module's weighted ΔW by a rule on their cores.

    A ΔW of zero has no say. One that is alone in its module has nothing to be reconciled with: it stays as it is.
    """
    for module in modules:
        space = core_space(module.weighted)
        if len(space.cores) < 2:
            merged = module.weighted
        else:
            with one_thread():
                merged = (space.lift(rule(space.cores)),)
        yield module, [term.scaled(scale) for term in merged]


def compact_svd(X: Tensor, scale: float | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return U (m, k), σ (k,), Vᵀ (k, n) of X without its negligible directions; k may be 0.

    Args:
        scale: magnitude of what X was computed from; None means σ₁.
    """
    U, sigma, Vh = torch.linalg.svd(X, full_matrices=False)
    k = int((sigma > NEGLIGIBLE * (sigma[:1] if scale is None else scale)).sum())
    return U[:, :k], sigma[:k], Vh[:k]


def polar_factor(X: Tensor) -> Tensor:
    """Return the nearest matrix with orthonormal columns, UVᵀ of X = UΣVᵀ, on the span of X.

    Columns that are one direction up to rounding share it: they stay dependent instead of being driven apart.
    """
    U, _, Vh = compact_svd(X)
    return U @ Vh


def _core(left: Tensor, right: Tensor, size: int) -> Core:
    """Return the compact SVD of left·rightᵀ; (k_out, r), (k_in, r)."""
    Q_left, R_left = torch.linalg.qr(left)
    Q_right, R_right = torch.linalg.qr(right)
    U, sigma, Vh = torch.linalg.svd(R_left @ R_right.T, full_matrices=False)
    largest_term = float((left.norm(dim=0) * right.norm(dim=0)).max())
    k = numerical_rank(sigma, size, largest_term)
    return Core(Q_left @ U[:, :k], sigma[:k], Q_right @ Vh[:k].T)
