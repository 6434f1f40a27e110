"""Routing with benchmark datasets: the expert that did best on the known texts nearest to the query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lora.catalogue import param
from lora.neighbours import judged, nearest, shrunk
from lora.outcomes import Doubles, Floats, OutcomeRouter, Outcomes, Predict, Prediction, kernel
from lora.routers import ROUTERS


@dataclass(frozen=True)
class BenchmarkKnnParams:
    """Parameters of `BenchmarkKnn`."""

    score: Literal["s1", "s2", "s3"] = param(
        "s1",
        "s1: mean predicted score; s2: share of the texts with one above 0.5; s3: s2 as far as such predictions were "
        "right near by, and where it promises less than the best mean over all texts, those means",
    )
    neighbours: int = param(
        5, "how many of the texts on which an expert was measured count; RouterBench takes 50", minimum=1, maximum=1000
    )
    prior: float = param(
        1.0, "right and wrong answers that are added to the neighbours, so that few promise little", minimum=0
    )
    min_score: float | None = param(None, "predicted score below which an expert is no match", minimum=0, maximum=1)


@ROUTERS.register(
    "benchmark_knn",
    params=BenchmarkKnnParams,
    title="Benchmark k-NN",
    summary="Predicts what each expert scores from what it scored on the nearest known texts.",
    source="Shnitzer et al. 2023, arXiv:2309.15789, S1 to S3, each text a benchmark of its own; RouterBench, "
    "arXiv:2403.12031, k-NN: s1 of one text without a prior; neighbours are those on which the expert was measured",
    needs=("outcomes",),
    prototype="outcomes",
    accepts=["text", "texts", "examples", "vector", "vectors"],
    when="Where experts were measured on texts like those to come: its score is the accuracy to expect.",
    k=3,
)
class BenchmarkKnn(OutcomeRouter):
    """S1 = mean over the texts of g, the shrunken mean score of the nearest; S2 = share of the texts with g > 0.5;
    S3 = S2·p + (1 - S2)·(1 - p), where p is how often [g > 0.5] was right, smoothed around the query."""

    params: BenchmarkKnnParams

    def fit(self, outcomes: Outcomes) -> Predict | None:
        """Return the prediction, which needs no fit."""
        return (lambda rows: self._predict(rows, outcomes)) if len(outcomes.score) else None

    def _predict(self, rows: Floats, outcomes: Outcomes) -> Prediction:
        cells, params = outcomes.cells, self.params
        quality, share, sure, means = (np.full(outcomes.experts, np.nan) for _ in range(4))
        for expert, cosines, places in nearest(rows, outcomes, params.neighbours):
            predicted = shrunk(cells.score[places], params.prior)
            quality[expert] = predicted.mean()
            share[expert] = (predicted > 0.5).mean()
            if params.score == "s3":
                near = cosines.max(axis=0)
                sure[expert] = self._sure(outcomes, expert, near)
                means[expert] = shrunk(cells.score[cells.starts[expert] : cells.starts[expert + 1]], params.prior)
        if params.score == "s1":
            return Prediction(quality, quality)
        if params.score == "s2":
            return Prediction(share, quality)
        s3 = share * sure + (1 - share) * (1 - sure)
        return Prediction(s3 if np.nanmax(s3) > np.nanmax(means) else means, quality)

    def _sure(self, outcomes: Outcomes, expert: int, near: Doubles) -> float:
        """How often the prediction is right near the query; one more right and one more wrong."""
        params, cells = self.params, outcomes.cells
        right, places = judged(cells, outcomes.probes, expert, near, params.neighbours, params.prior)
        weights = kernel(near[places - cells.starts[expert]])
        return float((weights @ right + 1) / (weights.sum() + 2))
