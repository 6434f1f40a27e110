"""Retrieval of Experts: every text votes for the expert that has the sample nearest to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lora.catalogue import param
from lora.routers import ROUTERS, Doubles, Floats, Ints, SampleRouter
from lora.scores import reached, shares

# Of the mean similarity, so that it decides between equal shares only: of 256 votes, one is worth four times as much.
TIE_BREAK = 1e-3


@dataclass(frozen=True)
class RetrievalOfExpertsParams:
    """Parameters of `RetrievalOfExperts`."""

    min_score: float | None = param(None, "share of the votes below which an expert is no match", minimum=0, maximum=1)


@ROUTERS.register(
    "retrieval_of_experts",
    params=RetrievalOfExpertsParams,
    title="Retrieval of Experts",
    summary="Lets every example vote for the expert with the nearest sample; ranks by the share of the votes.",
    source="Retrieval of Experts, arXiv:2302.03202; votes are counted for every expert, not for the winner only",
    needs=("samples",),
    prototype="samples",
    accepts=["text", "texts", "examples", "vector", "vectors", "adapter"],
    when="With some 32 unlabelled examples of one new task; with a single text it is the nearest sample's expert.",
    k=1,
)
class RetrievalOfExperts(SampleRouter):
    """Score = share of the votes, plus a thousandth of the mean similarity of the nearest samples for equal shares."""

    def __init__(self, params: RetrievalOfExpertsParams) -> None:
        self.params = params

    def compare(self, similarities: NDArray[np.floating], starts: Ints) -> Doubles:
        """Return the similarity of each expert's nearest sample, (m, experts)."""
        return np.maximum.reduceat(similarities, starts, axis=1).astype(np.float64)

    def decide(self, compared: Doubles) -> Doubles:
        """Return the shares of the votes with what decides between equal ones, (experts,)."""
        # a text whose nearest samples are equally near splits its vote
        votes = compared == compared.max(axis=1, keepdims=True)
        share = (votes / votes.sum(axis=1, keepdims=True)).mean(axis=0)
        scores: Doubles = share + TIE_BREAK * compared.mean(axis=0)
        return scores

    def keep(self, scores: Floats) -> NDArray[np.bool_]:
        """Return which scores (k,) reach `min_score`."""
        return reached(scores, self.params.min_score)

    def weigh(self, scores: Floats) -> Floats:
        """Return the scores of the matches as shares of one; (k,), float32."""
        return shares(scores)
