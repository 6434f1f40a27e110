"""DELLA: drop entries at random, small ones more often, then elect a sign per entry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from lora.catalogue import param
from lora.election import Election, EntryRule, Scope, merge_entries
from lora.elementwise import entry_blocks
from lora.lazy_torch import torch
from lora.masks import uniform
from lora.merges import MERGES, Merged, Module, Modules

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DellaParams:
    """Parameters of `della`."""

    density: float = param(0.7, "mean probability that an entry of an input is kept", above=0, maximum=1)
    epsilon: float = param(0.15, "by how much the largest entry of a row is likelier, and the smallest less", minimum=0)
    scale: float = param(1.0, "factor λ on the merged weight change")
    seed: int = param(0, "of the random masks", minimum=0)
    semantics: Literal["paper", "mergekit"] = param(
        "paper", "whether every entry is divided by its own probability, or all by one number that keeps the L1 norm"
    )

    def __post_init__(self) -> None:
        if self.density - self.epsilon <= 0 or self.density + self.epsilon >= 1:
            raise ValueError("density - epsilon must be above 0, and density + epsilon below 1.")


@MERGES.register(
    "della",
    params=DellaParams,
    title="DELLA",
    summary="Drops entries of every input at random, small ones likelier, elects signs, and averages those that agree.",
    source="DELLA-Merging, arXiv:2406.11617, section 3; mergekit's della",
    weights="relative",
    family="elementwise",
    when="For comparison with published merges; as a LoRA it keeps less than ties does.",
    lacks=("gauge", "scale", "low_rank"),
)
def della(modules: Modules, params: DellaParams) -> Iterator[tuple[Module, Merged]]:
    """Yield λ times the disjoint mean of Mᵢ∘ΔWᵢ/Pᵢ with Mᵢ ~ Bernoulli(Pᵢ).

    Pᵢ rises with the rank of |ΔWᵢ| in its row, from density - ε to density + ε; of equal ones, later columns rank
    higher. "mergekit" multiplies what is kept by one number per module and input that restores Σ|ΔWᵢ|.
    """

    def rule_of(scope: Scope) -> EntryRule:
        keep: EntryRule = partial(_kept, params)
        if params.semantics == "mergekit":
            keep = partial(_rescaled, keep, _l1_ratios(scope, keep))
        return Election(scope, keep, params.semantics).merge

    return merge_entries(modules, rule_of, params.scale)


def _kept(params: DellaParams, module: Module, rows: slice, entries: Tensor) -> Tensor:
    width = entries.shape[2]
    ramp = torch.linspace(-1, 1, width, device=entries.device) if width > 1 else entries.new_zeros(1)
    by_rank = params.density + params.epsilon * ramp
    for part, digest in zip(entries, module.digests, strict=True):
        probabilities = torch.empty_like(part).scatter_(1, _ascending(part), by_rank.expand_as(part))
        dropped = uniform(params.seed, digest, module.layout.path, rows, width).to(part.device) >= probabilities
        if params.semantics == "paper":
            part.div_(probabilities)
        part.masked_fill_(dropped, 0)
    return entries


def _ascending(entries: Tensor) -> Tensor:
    """Return the columns of every row by magnitude, and those of equal magnitude as they come; (b, d_in).

    Magnitude and column make one integer: no two are equal, so that every sort agrees, and numpy's is ten times as
    fast as torch's on a CPU.
    """
    keys = entries.abs().view(torch.int32).long() << 32 | torch.arange(entries.shape[1], device=entries.device)
    if keys.is_cpu:
        keys.numpy().sort(axis=1)
    else:
        keys = keys.sort(dim=1).values
    return keys & 0xFFFF_FFFF


def _rescaled(keep: EntryRule, ratios: dict[int, float], module: Module, rows: slice, entries: Tensor) -> Tensor:
    kept = keep(module, rows, entries)
    return kept.mul_(kept.new_tensor([ratios[i] for i in module.inputs])[:, None, None])


def _l1_ratios(scope: Scope, keep: EntryRule) -> dict[int, float]:
    """Return by input Σ|x| over Σ|x| of what is kept, 1 where nothing is."""
    sums: dict[int, list[Tensor]] = {}
    for module in scope:
        for rows, entries in entry_blocks(module.deltas):
            before = entries.abs().sum((1, 2), dtype=torch.float64)
            after = keep(module, rows, entries).abs().sum((1, 2), dtype=torch.float64)
            for i, pair in zip(module.inputs, torch.stack([before, after], 1), strict=True):
                sums[i] = [*sums.get(i, []), pair]
    totals = {i: torch.stack(pairs).sum(0).tolist() for i, pairs in sums.items()}
    return {i: before / after if after else 1.0 for i, (before, after) in totals.items()}
