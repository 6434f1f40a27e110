"""Cost-aware routing: the cheapest expert whose answer is expected to be good enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lora.catalogue import param
from lora.neighbours import nearest, shrunk
from lora.outcomes import Floats, OutcomeRouter, Outcomes, Predict, Prediction
from lora.routers import ROUTERS
from lora.scores import equal


@dataclass(frozen=True)
class CostAwareParams:
    """Parameters of `CostAware`."""

    rule: Literal["cheapest", "utility"] = param(
        "cheapest",
        "cheapest: minus the expected cost of those that reach the threshold, or of the best where none does; "
        "utility: expected score - price · expected cost",
    )
    threshold: float = param(0.5, "expected score that is good enough", minimum=0, maximum=1)
    price: float = param(1.0, "what a unit of cost is worth in score, for utility", minimum=0)
    budget: float | None = param(None, "expected cost above which an expert is no match", minimum=0)
    neighbours: int = param(
        5, "how many of the texts on which an expert was measured count; RouterBench takes 50", minimum=1, maximum=1000
    )
    prior: float = param(
        1.0, "right and wrong answers that are added to the neighbours, so that few promise little", minimum=0
    )
    min_score: float | None = param(None, "score below which an expert is no match", maximum=1)


@ROUTERS.register(
    "cost_aware",
    params=CostAwareParams,
    title="Cost-aware",
    summary="Picks the cheapest expert whose expected score reaches a threshold, under a budget.",
    source="RouterBench, arXiv:2403.12031 (utility); HybridLLM, arXiv:2404.14618, and BEST-Route, arXiv:2506.22716 "
    "(cheapest above a threshold, else the best); scores are predicted by k-NN where these train a classifier",
    needs=("outcomes",),
    prototype="outcomes",
    accepts=["text", "texts", "examples", "vector", "vectors"],
    when="Where experts differ in what an answer costs, such as bases of several sizes, and good enough will do.",
    k=1,
)
class CostAware(OutcomeRouter):
    """Score = -cost of those whose expected score reaches the threshold, or expected score - price · cost; both are
    means over the nearest texts on which the expert was measured. Equal scores go by the expected score."""

    lacks = "Report how experts did, and at what cost, with POST /api/v1/outcomes/: {adapter, text, score, cost}."

    params: CostAwareParams

    def fit(self, outcomes: Outcomes) -> Predict | None:
        """Return the prediction, which needs no fit; None where no cost is known."""
        return (lambda rows: self._predict(rows, outcomes)) if np.isfinite(outcomes.cost).any() else None

    def _predict(self, rows: Floats, outcomes: Outcomes) -> Prediction:
        cells, params = outcomes.cells, self.params
        quality, costs = np.full(outcomes.experts, np.nan), np.full(outcomes.experts, np.nan)
        for expert, _, places in nearest(rows, outcomes, params.neighbours):
            quality[expert] = shrunk(cells.score[places], params.prior).mean()
            known = cells.cost[places][np.isfinite(cells.cost[places])]
            if not len(known):
                # Nothing near has a price: what its answers cost elsewhere.
                mine = cells.cost[cells.starts[expert] : cells.starts[expert + 1]]
                known = mine[np.isfinite(mine)]
            costs[expert] = known.mean() if len(known) else np.nan
        return Prediction(self._scores(quality, costs), quality, costs)

    def _scores(self, quality: NDArray[np.float64], costs: NDArray[np.float64]) -> NDArray[np.float64]:
        params = self.params
        scores = quality - params.price * costs if params.rule == "utility" else -costs
        affordable = np.isfinite(costs) & (costs <= (np.inf if params.budget is None else params.budget))
        if params.rule == "cheapest":
            good = affordable & (quality >= params.threshold)
            best = affordable & (quality == quality[affordable].max(initial=-1.0))
            affordable = good if good.any() else best
        return np.where(affordable, scores, np.nan)

    def weigh(self, scores: NDArray[np.floating]) -> Floats:
        """Return 1/k each: its rule picks one expert; (k,), float32."""
        return equal(scores)
