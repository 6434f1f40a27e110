"""Merge methods: how the ΔW of several adapters become one, one file per method.

A method is a generator over the modules of a recipe. It yields, for every module in order, the module and its merged
ΔW: terms whose sum it is (a sequence of `Factors`, exact in low rank), an `Elementwise`, or a `Stacked`. The engine
reads, compresses to the wanted rank, writes and reports. `modules` may be iterated more than once.

Every method registers these traits:
    weights: "absolute" (Σ wᵢ·ΔWᵢ, default 1/n) or "relative" (ŵᵢ = wᵢ·n/Σ|w|, default equal).
    family: one of `FAMILIES`.
    when: one sentence, when to use it.
    lacks: those of `PROPERTIES` that it does not have; the shared tests assert that it fails exactly these.
and where they apply:
    rank_aware: True where the rank of the output changes the rule itself, and not only what is cut off at its end.
    rank_mode: the only mode of the output's rank that it can write, and its default.
    max_inputs: how many inputs it takes.
    equal_ranks: True where it adds factors, which must be of one rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from lora.catalogue import Catalogue

if TYPE_CHECKING:
    from lora.elementwise import Elementwise
    from lora.layout import ModuleLayout
    from lora.runtime.probe import Probe
    from lora.weights import Factors

MERGES = Catalogue("merge method", __name__)

FAMILIES = {
    "linear": "sums of the weight changes, exact in low rank",
    "spectral": "singular directions, exact in low rank",
    "elementwise": "single entries, streamed and compressed",
    "factors": "factors instead of their products, to reproduce papers",
    "data": "rules that need examples or the base model",
}
PROPERTIES = {
    "identity": "one input alone comes out as it went in",
    "permutation": "the order of the inputs does not matter",
    "gauge": "only the products B·A count, not how they are split",
    "scale": "c times every input gives c times the result",
    "zero_adapter": "an input without effect changes nothing, where the others' applied weights stay the same",
    "low_rank": "the rank of the result is at most the sum of the inputs' ranks",
}


@dataclass(frozen=True)
class Module:
    """One module of a recipe: the ΔW of those inputs that adapt it, all of one shape.

    Attributes:
        layout: path, kind and shapes.
        inputs: positions in the recipe, ascending; an input that is not listed has ΔW = 0 here.
        deltas: ΔWᵢ of these inputs, float64, without their weights.
        weights: weights of these inputs.
        digests: what random masks of these inputs are drawn from, with the layout's path.
    """

    layout: ModuleLayout
    inputs: tuple[int, ...]
    deltas: tuple[Factors, ...]
    weights: tuple[float, ...]
    digests: tuple[str, ...]

    @property
    def weighted(self) -> tuple[Factors, ...]:
        """wᵢ·ΔWᵢ."""
        return tuple(delta.scaled(weight) for delta, weight in zip(self.deltas, self.weights, strict=True))


@dataclass(frozen=True)
class Stacked:
    """Terms that are written side by side as they are: no direction is turned or cut off."""

    terms: Sequence[Factors]


class Modules(Protocol):
    """The modules of a recipe, sorted by path, read from the files anew by every iteration."""

    n: int  # number of inputs
    rank: int | None  # of the output, where it is known before the result; None: as much as there is
    probe: Probe | None  # the base with the inputs on top, for methods that need it and where it is at hand

    def __iter__(self) -> Iterator[Module]:
        """Yield every module."""
        ...

    def __len__(self) -> int:
        """Return how many modules there are."""
        ...


Merged: TypeAlias = "Sequence[Factors] | Elementwise | Stacked"
