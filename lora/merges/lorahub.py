"""LoraHub on ΔW: weights that make a few examples of a task likely, by trial without gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lora.catalogue import param
from lora.merges import MERGES, Merged, Module, Modules
from lora.runtime.probe import LabelledParams, probe_of
from lora.runtime.weighting import search_weights, weighted_sum


@dataclass(frozen=True)
class LorahubParams(LabelledParams):
    """Parameters of `lorahub`."""

    budget: int = param(40, "how many weights are tried", minimum=1, maximum=1000)
    bound: float = param(1.5, "largest size of a weight", above=0, maximum=10)
    shrinkage: float = param(0.05, "what the mean size of the weights adds to the loss", minimum=0)


@MERGES.register(
    "lorahub",
    params=LorahubParams,
    title="LoraHub search",
    summary="Runs the base with the inputs on top and searches the weights of their sum that make a few examples of a "
    "task likely; the search begins at the weights of the recipe.",
    source="LoraHub, arXiv:2307.13269, section 3, on Σ wᵢ·ΔWᵢ instead of factors, with a (1+1) evolution strategy",
    needs=("base_model", "labels"),
    weights="absolute",
    family="data",
    when="When there are five or more examples of the very task that the merge is for.",
    lacks=("identity", "permutation", "scale", "zero_adapter"),
)
def lorahub(modules: Modules, params: LorahubParams) -> Iterator[tuple[Module, Merged]]:
    """Yield Σ wᵢ·ΔWᵢ with the w that minimises the loss on the examples plus shrinkage·mean|w|."""
    weights = search_weights(
        probe_of(modules, "lorahub"), params, "evolution", params.budget, params.bound, params.shrinkage
    )
    return weighted_sum(modules, lambda path, i: weights[i])
