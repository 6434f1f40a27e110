"""What elementwise merge methods share: trimming by magnitude within a scope, and the election of signs."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Literal, TypeAlias

from lora.algebra import one_thread
from lora.elementwise import Elementwise, entry_blocks, order_statistics
from lora.lazy_torch import torch
from lora.masks import uniform
from lora.merges import Merged, Module, Modules

if TYPE_CHECKING:
    from torch import Tensor

Scope: TypeAlias = "Iterable[Module]"
"""The modules that an input's entries are compared within; iterated anew for every pass."""

EntryRule: TypeAlias = "Callable[[Module, slice, Tensor], Tensor]"
"""Maps a module, rows and their entries (n, b, d_in), unweighted, to entries; it may change those it is given."""


def merge_entries(
    modules: Modules, rule_of: Callable[[Scope], EntryRule], scale: float, scope: str = "tensor"
) -> Iterator[tuple[Module, Merged]]:
    """Yield every module merged entry by entry; one input alone has no conflict and is only weighted and scaled.

    Args:
        rule_of: what is found out within a scope, as a rule that gives the merged entries (b, d_in).
        scale: factor λ on the result.
        scope: "tensor", every module for itself, or "global", all of them at once.
    """
    if modules.n == 1:
        for module in modules:
            yield module, [delta.scaled(scale) for delta in module.weighted]
        return
    rule_of = one_thread()(rule_of)  # it passes over blocks, as the merge does
    shared = rule_of(modules) if scope == "global" else None
    for module in modules:
        yield module, Elementwise(module.deltas, partial(_scaled, shared or rule_of([module]), scale, module))


def _scaled(rule: EntryRule, scale: float, module: Module, rows: slice, entries: Tensor) -> Tensor:
    return rule(module, rows, entries).mul_(scale)


def weigh(module: Module, entries: Tensor) -> Tensor:
    """Multiply entries (n, b, d_in) by the weights of their inputs, in place."""
    return entries.mul_(entries.new_tensor(module.weights)[:, None, None])


def weighted_total(keep: EntryRule, module: Module, rows: slice, entries: Tensor) -> Tensor:
    """Return Σ wᵢ·xᵢ of the entries that are kept; (b, d_in)."""
    return combined(keep(module, rows, entries), module.weights)


def largest(density: float, scope: Scope) -> EntryRule:
    """Return a rule that keeps the ⌊density·entries⌋ largest entries of every input, at least one, others become 0.

    Those equal to the last of them are kept too.
    """
    if density == 1:
        return lambda module, rows, entries: entries
    floors = magnitudes(scope, lambda size: [max(1, int(density * size))])
    below = {i: _next_below(floor) for i, (floor,) in floors.items()}

    def keep(module: Module, rows: slice, entries: Tensor) -> Tensor:
        for i, part in zip(module.inputs, entries, strict=True):
            part.copy_(torch.hardshrink(part, below[i]))
        return entries

    return keep


def between(gamma: float, density: float, scope: Scope) -> EntryRule:
    """Return a rule that drops the ⌊γ·entries⌋ largest entries and keeps the next ⌊density·entries⌋, at least one.

    Those equal to the first or the last of them are kept too.
    """

    def ranks(size: int) -> tuple[int, int]:
        dropped = min(int(gamma * size), size - 1)
        return dropped + 1, min(dropped + max(1, int(density * size)), size)

    limits = magnitudes(scope, ranks)

    def keep(module: Module, rows: slice, entries: Tensor) -> Tensor:
        for i, part in zip(module.inputs, entries, strict=True):
            ceiling, floor = limits[i]
            size = part.abs()
            part.masked_fill_((size > ceiling) | (size < floor), 0)
        return entries

    return keep


def randomly_kept(density: float, seed: int) -> EntryRule:
    """Return a rule that keeps every entry with a probability and divides it by that, others become 0.

    Source: DARE, arXiv:2311.03099, section 3.2. The masks follow from seed, input, module and place (`lora.masks`).
    """

    def keep(module: Module, rows: slice, entries: Tensor) -> Tensor:
        for part, digest in zip(entries, module.digests, strict=True):
            numbers = uniform(seed, digest, module.layout.path, rows, part.shape[1]).to(part.device)
            part.div_(density).masked_fill_(numbers >= density, 0)
        return entries

    return keep


def magnitudes(scope: Scope, ranks_of: Callable[[int], Sequence[int]]) -> dict[int, list[float]]:
    """Return by input the k-th largest magnitudes of its entries in the scope.

    Args:
        ranks_of: maps the number of entries of an input to the k wanted.
    """
    sizes: dict[int, int] = {}
    for module in scope:
        for i in module.inputs:
            sizes[i] = sizes.get(i, 0) + module.layout.d_out * module.layout.d_in
    return order_statistics(partial(_entries, scope), {i: ranks_of(size) for i, size in sizes.items()})


def _entries(scope: Scope) -> Iterator[tuple[int, Tensor]]:
    for module in scope:
        for _, entries in entry_blocks(module.deltas):
            yield from zip(module.inputs, entries, strict=True)


def _next_below(floor: float) -> float:
    """Return the largest float32 below a positive one: `hardshrink` keeps what is above, we what is not below."""
    bits: int = struct.unpack("<I", struct.pack("<f", floor))[0]
    found: float = struct.unpack("<f", struct.pack("<I", max(bits - 1, 0)))[0]
    return found


def signs_of_total(votes: Tensor) -> Tensor:
    """Return the sign of every column's sum, 0 where it cancels; (n, b, d_in) to (b, d_in).

    In float64: the sign must not depend on the order of the inputs.
    """
    total = votes[0].double()
    for part in votes[1:]:
        total += part
    return total.sign_().to(votes.dtype)


def total_of_agreeing(
    votes: Tensor, elected: Tensor, amounts: Sequence[float], shares: Sequence[float] | None = None
) -> Tensor:
    """Return Σ amountᵢ·voteᵢ over the votes with the elected sign, divided by Σ shareᵢ over them; (b, d_in).

    Args:
        votes: (n, b, d_in); used up.
        elected: signs (b, d_in).
        shares: not negative; None divides by nothing.
    """
    agreeing = votes.mul_(elected).clamp_(min=0)  # magnitudes; those that disagree are 0
    total = combined(agreeing, amounts)
    if shares is not None:
        total /= combined(agreeing.sign_(), shares).clamp_(min=torch.finfo(total.dtype).tiny)
    return total.mul_(elected)


@dataclass(frozen=True)
class Election:
    """Signs elected entry by entry, and the mean of those entries that agree.

    Attributes:
        scope: where majorities are counted.
        keep: which entries take part.
        semantics: "paper": entries vote with their weights, the sign that wins most entries of the scope breaks
            ties, and the mean divides by how many agree. "peft": they vote without weights, and + breaks ties.
            "mergekit": as "paper", but + breaks ties, and the mean divides by the weights |wᵢ| that agree.
        average: whether the sum of those that agree is divided at all.
    """

    scope: Scope
    keep: EntryRule
    semantics: Literal["paper", "peft", "mergekit"] = "paper"
    average: bool = True

    def merge(self, module: Module, rows: slice, entries: Tensor) -> Tensor:
        """Return the merged entries; an `EntryRule`."""
        votes = self._votes(module, rows, entries)
        elected = signs_of_total(votes)
        self._break_ties(votes, elected)
        ones = [1.0] * len(votes)
        amounts = module.weights if self.semantics == "peft" else ones
        if not self.average:
            return total_of_agreeing(votes, elected, amounts)
        shares = [abs(weight) for weight in module.weights] if self.semantics == "mergekit" else ones
        return total_of_agreeing(votes, elected, amounts, shares)

    def _votes(self, module: Module, rows: slice, entries: Tensor) -> Tensor:
        kept = self.keep(module, rows, entries)
        return kept if self.semantics == "peft" else weigh(module, kept)

    def _break_ties(self, votes: Tensor, elected: Tensor) -> None:
        if self.semantics != "paper":
            elected.masked_fill_(elected == 0, 1)
            return
        tied = (elected == 0).logical_and_(votes.abs().amax(0) > 0)
        if tied.any():
            elected.masked_fill_(tied, self.majority)

    @cached_property
    def majority(self) -> float:
        """The sign, 1 or -1, that wins most entries of the scope; only a tie asks for it, it costs a pass."""
        balance = 0.0
        for module in self.scope:
            for rows, entries in entry_blocks(module.deltas):
                balance += float(signs_of_total(self._votes(module, rows, entries)).sum(dtype=torch.float64))
        return -1.0 if balance < 0 else 1.0


def combined(entries: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Return Σ cᵢ·xᵢ; (n, b, d_in) to (b, d_in)."""
    return torch.einsum("nbd,n->bd", entries, entries.new_tensor(coefficients))
