"""Model Swarms on ΔW: weights found by particles that are drawn to the best places so far."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lora.catalogue import param
from lora.merges import MERGES, Merged, Module, Modules
from lora.runtime.probe import LabelledParams, probe_of
from lora.runtime.weighting import search_weights, weighted_sum


@dataclass(frozen=True)
class SwarmParams(LabelledParams):
    """Parameters of `swarm`."""

    budget: int = param(40, "how many weights are tried", minimum=1, maximum=1000)
    bound: float = param(1.5, "largest size of a weight", above=0, maximum=10)


@MERGES.register(
    "swarm",
    params=SwarmParams,
    title="Model Swarms search",
    summary="Runs the base with the inputs on top and lets a swarm look for the weights of their sum that make a few "
    "examples of a task likely; its particles begin at the recipe's weights and at every input alone.",
    source="Model Swarms, arXiv:2410.11163, section 3, over the weights of Σ wᵢ·ΔWᵢ",
    needs=("base_model", "labels"),
    weights="absolute",
    family="data",
    when="When lorahub may have stayed near where it began, and a budget of a hundred or more trials is at hand.",
    lacks=("identity", "permutation", "scale", "zero_adapter"),
)
def swarm(modules: Modules, params: SwarmParams) -> Iterator[tuple[Module, Merged]]:
    """Yield Σ wᵢ·ΔWᵢ with the w of the lowest loss that a particle has seen."""
    weights = search_weights(probe_of(modules, "swarm"), params, "swarm", params.budget, params.bound)
    return weighted_sum(modules, lambda path, i: weights[i])
