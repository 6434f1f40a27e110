"""Weights that were found by running the base, as merges: searched, told in the report, summed exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lora.runtime.probe import LabelledParams, Probe
from lora.search import Space, minimise

if TYPE_CHECKING:
    from lora.merges import Merged, Module, Modules


def weighted_sum(modules: Modules, weight: Callable[[str, int], float]) -> Iterator[tuple[Module, Merged]]:
    """Yield Σ cᵢ·ΔWᵢ of every module, which then has the weights c of its path and the inputs' positions."""
    for module in modules:
        found = replace(module, weights=tuple(weight(module.layout.path, i) for i in module.inputs))
        yield found, found.weighted


def search_weights(
    probe: Probe, params: LabelledParams, strategy: str, budget: int, bound: float, shrinkage: float = 0.0
) -> Sequence[float]:
    """Return the weights with the lowest loss on the examples that a search has tried, and tell them in the report.

    Args:
        bound: of every weight's size.
        shrinkage: what the mean size of the weights adds to the loss.
    """
    task = probe.task(params, labelled=True)

    def loss(weights: Sequence[float]) -> float:
        return probe.loss(task, probe.adapted.numbers(weights)) + shrinkage * sum(map(abs, weights)) / len(weights)

    space = Space(tuple(probe.weights), -bound, bound, params.seed)
    found = minimise(strategy, space, loss, budget, probe.advance)
    probe.found |= {
        "weights": list(found.weights),
        "loss": found.loss,
        "losses": list(found.losses),
        "base_loss": probe.loss(task, None),
    }
    return found.weights
