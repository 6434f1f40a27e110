"""TIES: trim small entries, elect a sign per entry, average those that agree with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from lora.catalogue import param
from lora.elementwise import Elementwise, entry_blocks, kth_largest
from lora.lazy_torch import torch
from lora.merges import MERGES, Merged, Module, Modules

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TiesParams:
    """Parameters of `ties`."""

    density: float = param(0.2, "fraction of the entries of every input that is kept", above=0, maximum=1)
    scale: float = param(1.0, "factor λ on the merged weight change")
    scope: Literal["tensor", "global"] = param(
        "tensor", "whether the fraction is taken in every module, or over all modules of an input"
    )
    semantics: Literal["paper", "peft"] = param(
        "paper", "whether signs are elected by weighted entries, or as PEFT's ties_svd does by unweighted ones"
    )


@MERGES.register(
    "ties",
    params=TiesParams,
    title="TIES",
    summary="Keeps the largest entries of every input, elects a sign for each, and averages those that agree.",
    source="TIES-Merging, arXiv:2306.01708, section 4.2, on ΔW",
    weights="relative",
    family="elementwise",
    when="When several experts of different tasks pull single weights in opposite directions, and the rank may grow.",
    lacks=("low_rank",),
)
def ties(modules: Modules, params: TiesParams) -> Iterator[tuple[Module, Merged]]:
    """Yield λ times the disjoint mean of the trimmed ΔWᵢ.

    The threshold keeps exactly ⌊density·entries⌋ entries, at least one, and those equal to the last of them. The
    mean divides by the number of inputs that agree. Where the votes cancel exactly, "paper" takes the sign that
    wins most entries in the scope and "peft" the positive one. One input alone has no conflict: it is not trimmed.
    """
    if modules.n == 1:
        for module in modules:
            yield module, [delta.scaled(params.scale) for delta in module.weighted]
        return
    shared = _rule(modules, params) if params.scope == "global" else None
    for module in modules:
        rule = shared or _rule([module], params)
        yield module, Elementwise(module.deltas, partial(rule.merge, module))


@dataclass(frozen=True)
class _Rule:
    """How entries are trimmed and elected within one scope.

    Attributes:
        thresholds: by input, the magnitude from which on its entries are kept.
        tie_sign: the sign where votes cancel, 1 or -1.
    """

    params: TiesParams
    thresholds: dict[int, float]
    tie_sign: float = 1.0

    def merge(self, module: Module, rows: slice, entries: Tensor) -> Tensor:
        """Return the disjoint mean of entries (n, b, d_in): (b, d_in)."""
        kept, votes, elected = self._elect(module, entries)
        agrees = votes * torch.where(elected == 0, self.tie_sign, elected) > 0
        total = torch.einsum("nbd,n->bd", kept * agrees, kept.new_tensor(module.weights))
        return self.params.scale * total / agrees.sum(0).clamp(min=1)

    def balance(self, module: Module) -> float:
        """Return how many entries of the module elect + more than elect −."""
        blocks = entry_blocks(module.deltas)
        return sum(float(self._elect(module, entries)[2].sum()) for _, entries in blocks)

    def _elect(self, module: Module, entries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the trimmed entries and their votes, (n, b, d_in), and the elected signs (b, d_in), 0 = tie."""
        thresholds = entries.new_tensor([self.thresholds[i] for i in module.inputs])[:, None, None]
        kept = torch.where(entries.abs() >= thresholds, entries, 0)
        votes = kept
        if self.params.semantics == "paper":
            votes = kept * kept.new_tensor(module.weights)[:, None, None]
        # float64: the sign must not depend on the order of the inputs
        return kept, votes, votes.sum(0, dtype=torch.float64).sign().float()


def _rule(scope: Iterable[Module], params: TiesParams) -> _Rule:
    sizes: dict[int, int] = {}
    for module in scope:
        for i in module.inputs:
            sizes[i] = sizes.get(i, 0) + module.layout.d_out * module.layout.d_in
    thresholds = {
        i: kth_largest(partial(_entries_of, scope, i), max(1, int(params.density * size))) for i, size in sizes.items()
    }
    rule = _Rule(params, thresholds)
    if params.semantics == "paper" and sum(rule.balance(module) for module in scope) < 0:
        rule = replace(rule, tie_sign=-1.0)
    return rule


def _entries_of(scope: Iterable[Module], i: int) -> Iterator[Tensor]:
    """Yield all entries of input i, block by block."""
    for module in scope:
        if i in module.inputs:
            for _, entries in entry_blocks([module.deltas[module.inputs.index(i)]]):
                yield entries
