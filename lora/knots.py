"""KnOTS: representations of several ΔW over one basis, in which single entries can be compared.

[ΔW₁ | … | ΔWₙ] = U·Σ·[V₁ᵀ | … | Vₙᵀ], and Rᵢ = Σ·Vᵢᵀ = Uᵀ·ΔWᵢ represents ΔWᵢ = U·Rᵢ. A rule for single entries is
applied to the Rᵢ (at most Σr × d_in) instead of the ΔWᵢ; its result U·R has at most rank Σr and is exact in low rank.
Source: KnOTS, arXiv:2410.19735, and its code, which leaves sᵢ out; here it is part of ΔWᵢ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lora.algebra import one_thread
from lora.core_space import compact_svd
from lora.election import EntryRule, Scope
from lora.elementwise import entry_blocks
from lora.lazy_torch import torch
from lora.merges import Merged, Module, Modules
from lora.weights import Factors

if TYPE_CHECKING:
    from torch import Tensor


def merge_aligned(
    modules: Modules, rule_of: Callable[[Scope], EntryRule], scale: float, scope: str
) -> Iterator[tuple[Module, Merged]]:
    """Yield every module's weighted ΔW merged by a rule for the entries of their representations.

    One input alone is only weighted and scaled.

    Args:
        rule_of: what is found out about representations within a scope, as a rule for their entries.
        scale: factor λ on the result.
        scope: "tensor", every module for itself, or "global", all of them at once.
    """
    if modules.n == 1:
        for module in modules:
            yield module, [delta.scaled(scale) for delta in module.weighted]
        return
    shared = rule_of(_Representations(modules)) if scope == "global" else None
    for module in modules:
        U, sides = _align(module.weighted)
        if not U.shape[1]:  # every ΔW is zero
            yield module, module.weighted
            continue
        reps = _represented(module, sides)
        rule = shared or rule_of([reps])
        merged = [rule(reps, rows, entries) for rows, entries in entry_blocks(reps.deltas)]
        yield module, [Factors(torch.cat(merged).double(), U, scale)]


class _Representations:
    """The representations of a recipe's modules, for several passes: what is dear to find, Uᵀ·Bᵢ, is small and kept."""

    def __init__(self, modules: Modules) -> None:
        self._modules = modules
        self._sides: dict[str, Sequence[Tensor]] = {}

    def __iter__(self) -> Iterator[Module]:
        for module in self._modules:
            path = module.layout.path
            if path not in self._sides:
                self._sides[path] = _align(module.weighted)[1]
            if len(self._sides[path][0]):
                yield _represented(module, self._sides[path])


@one_thread()
def _align(deltas: Sequence[Factors]) -> tuple[Tensor, Sequence[Tensor]]:
    """Return U (d_out, k), and sᵢ·Uᵀ·Bᵢ (k, r) of every ΔW.

    With [s₁B₁ …] = Q·[S₁ …] and Aᵢᵀ = Qᵢ·Tᵢ, U is Q times the left singular vectors of [S₁T₁ᵀ …].
    """
    Q, R = torch.linalg.qr(torch.cat([delta.B * delta.scaling for delta in deltas], dim=1))
    parts = R.split([delta.A.shape[0] for delta in deltas], 1)
    joint = [part @ torch.linalg.qr(delta.A.T, mode="r").R.T for part, delta in zip(parts, deltas, strict=True)]
    basis, _, _ = compact_svd(torch.cat(joint, dim=1))
    U = Q @ basis
    signs = torch.where(U.sum(0) < 0, -1.0, 1.0)  # an SVD gives any, and a rule may break ties by them
    return U * signs, [(basis * signs).T @ part for part in parts]


def _represented(module: Module, sides: Sequence[Tensor]) -> Module:
    """Return the module of the representations Rᵢ, with the weights in them: their factors are (sᵢ·Uᵀ·Bᵢ)·Aᵢ."""
    reps = tuple(Factors(delta.A, side, 1.0) for delta, side in zip(module.deltas, sides, strict=True))
    layout = replace(module.layout, d_out=len(sides[0]))
    return replace(module, layout=layout, deltas=reps, weights=(1.0,) * len(reps))
