"""Greedy soup: the mean of those inputs that each lower the loss on examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lora.merges import MERGES, Merged, Module, Modules
from lora.runtime.probe import LabelledParams, probe_of
from lora.runtime.weighting import weighted_sum


@dataclass(frozen=True)
class GreedySoupParams(LabelledParams):
    """Parameters of `greedy_soup`."""


@MERGES.register(
    "greedy_soup",
    params=GreedySoupParams,
    title="Greedy soup",
    summary="Takes the inputs in the order of their own loss on examples and keeps each that lowers the loss of the "
    "mean.",
    source="Model soups, arXiv:2203.05482, section 2, recipe 1, by loss instead of accuracy",
    needs=("base_model", "labels"),
    weights="relative",
    family="data",
    when="When some of the inputs may be bad at the task, such as several runs of one training.",
    lacks=("scale", "zero_adapter"),
)
def greedy_soup(modules: Modules, params: GreedySoupParams) -> Iterator[tuple[Module, Merged]]:
    """Yield the mean of the ŵᵢ·ΔWᵢ that are in the soup: the best alone, then each whose mean with them is better."""
    probe = probe_of(modules, "greedy_soup")
    task = probe.task(params, labelled=True)
    evaluations = 2 * probe.n - 1

    def mean_of(soup: Sequence[int]) -> list[float]:
        return [weight / len(soup) * (i in soup) for i, weight in enumerate(probe.weights)]

    def loss(soup: Sequence[int], done: int) -> float:
        found = probe.loss(task, probe.adapted.numbers(mean_of(soup)))
        probe.advance(done / evaluations)
        return found

    alone = [loss([i], i + 1) for i in range(probe.n)]
    first, *others = sorted(range(probe.n), key=lambda i: alone[i])
    soup, best = [first], alone[first]
    for done, i in enumerate(others, probe.n + 1):
        joined = loss([*soup, i], done)
        if joined < best:
            soup, best = [*soup, i], joined
    weights = mean_of(soup)
    probe.found |= {"weights": weights, "loss": best, "losses": alone}
    return weighted_sum(modules, lambda path, i: weights[i])
