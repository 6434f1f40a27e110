"""KnOTS: representations of several ΔW over one basis, in which single entries can be compared.

[ΔW₁ | … | ΔWₙ] = U·Σ·[V₁ᵀ | … | Vₙᵀ], and Rᵢ = Σ·Vᵢᵀ = Uᵀ·ΔWᵢ represents ΔWᵢ = U·Rᵢ. A rule for single entries is
applied to the Rᵢ (at most Σr × d_in) instead of the ΔWᵢ; its result U·R has at most rank Σr and is exact in low rank.
Source: KnOTS, arXiv:2410.19735, section 4, and its code, which leaves sᵢ out; here it is part of ΔWᵢ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from lora.algebra import one_thread
from lora.core_space import compact_svd, core_space
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

    A ΔW of zero has no say; one input alone is only weighted and scaled.

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
        U, sides = _align(module)
        if sides:
            reps = _represented(module, sides)
            rule = shared or rule_of([reps])
            merged = [rule(reps, rows, entries) for rows, entries in entry_blocks(reps.deltas)]
            yield module, [Factors(torch.cat(merged).double(), U, scale)]
        else:
            yield module, module.weighted


class _Representations:
    """The representations of a recipe's modules, for several passes; what is dear to find, Uᵀ·Bᵢ, is small and kept."""

    def __init__(self, modules: Modules) -> None:
        self._modules = modules
        self._sides: dict[str, dict[int, Tensor]] = {}

    def __iter__(self) -> Iterator[Module]:
        for module in self._modules:
            path = module.layout.path
            if path not in self._sides:
                self._sides[path] = _align(module)[1]
            if self._sides[path]:
                yield _represented(module, self._sides[path])


@one_thread()
def _align(module: Module) -> tuple[Tensor, dict[int, Tensor]]:
    """Return U (d_out, k), and Uᵀ·Bᵢ (k, r) times scaling and weight of every input whose ΔW is not zero."""
    deltas = module.weighted
    space = core_space(deltas)
    if not space.cores:
        return space.left, {}
    basis, _, _ = compact_svd(torch.cat([core.U * core.sigma for core in space.cores], dim=1))
    U = space.left @ basis
    # a rule may treat + and − differently where it breaks ties, and an SVD gives either
    U = U * U.gather(0, U.abs().argmax(dim=0, keepdim=True)).sign()
    return U, {module.inputs[i]: U.T @ (deltas[i].B * deltas[i].scaling) for i in space.positions}


def _represented(module: Module, sides: dict[int, Tensor]) -> Module:
    """Return the module of the representations Rᵢ: their factors are (Uᵀ·Bᵢ)·Aᵢ."""
    owners = [(i, delta, digest) for i, delta, digest in zip(module.inputs, module.deltas, module.digests, strict=True)]
    inputs, deltas, digests = zip(*(owner for owner in owners if owner[0] in sides), strict=True)
    return Module(
        replace(module.layout, d_out=len(sides[inputs[0]])),
        inputs,
        tuple(Factors(delta.A, sides[i], 1.0) for i, delta in zip(inputs, deltas, strict=True)),
        (1.0,) * len(inputs),
        digests,
    )
