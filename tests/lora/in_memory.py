"""Recipes in memory, run by the method alone: its formula in float64, without files, engine and compression."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lora.layout import ModuleLayout
from lora.merges import MERGES, Module, Stacked
from lora.runtime.probe import Probe
from lora.weights import Factors
from tests.lora.raw_files import Array


@dataclass
class Recipe:
    """The modules of a recipe, as the engine hands them to a method: path → input → ΔW."""

    deltas: Mapping[str, Mapping[int, Factors]]
    weights: Sequence[float]
    rank: int | None = None
    probe: Probe | None = None

    @property
    def n(self) -> int:
        return len(self.weights)

    def __len__(self) -> int:
        return len(self.deltas)

    def __iter__(self) -> Iterator[Module]:
        for path, owners in sorted(self.deltas.items()):
            first = next(iter(owners.values()))
            (d_out, rank), d_in = first.B.shape, first.A.shape[1]
            layout = ModuleLayout(path, "linear", "a", "b", rank=rank, d_in=d_in, d_out=d_out, scaling=first.scaling)
            weights = tuple(self.weights[i] for i in owners)
            digests = tuple(f"digest {i}" for i in owners)
            yield Module(layout, tuple(owners), tuple(owners.values()), weights, digests)


def random_delta(seed: int, rank: int, d_out: int = 12, d_in: int = 10, scaling: float = 0.7) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(rank, d_in, generator=generator, dtype=torch.float64)
    return Factors(A, torch.randn(d_out, rank, generator=generator, dtype=torch.float64), scaling)


def dense(delta: Factors) -> Array:
    """Return s·B·A."""
    return delta.scaling * delta.B.numpy() @ delta.A.numpy()


def merged(
    name: str, deltas: Mapping[int, Factors] | Sequence[Factors], weights: Sequence[float], **params: Any
) -> Array:
    """Return the merge of one module by a method that yields low-rank terms.

    Args:
        deltas: of all inputs, or by input where some lack the module.
        weights: of all inputs, as the method applies them.
    """
    owners = deltas if isinstance(deltas, Mapping) else dict(enumerate(deltas))
    [(_, terms)] = MERGES.get(name).run(Recipe({"m": owners}, weights), MERGES.parse(name, params))
    return sum(dense(term) for term in (terms.terms if isinstance(terms, Stacked) else terms))
