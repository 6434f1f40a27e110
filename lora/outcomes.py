"""What experts scored on known texts: the table that routers learn from, and how it shifts what others rank."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lora.scores import reached, shares

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

# Cosine at which an outcome counts 1/e of one on the very text is 1 - BANDWIDTH; what counts less than FLOOR does not.
BANDWIDTH = 0.1
FLOOR = 0.01
# Outcomes on the very text that weigh as much as knowing nothing, and as much as one caller's can at most.
PRIOR = 4.0
CAP = 3.0
# Measured experts that weigh as much as the guess that a score is as likely high as low.
GUESS, GUESSES = 0.5, 2.0
# How far an expert moves whose expected score is 1 above the rest: in standard deviations of the scores.
STRENGTH = 6.0


@dataclass(frozen=True)
class Outcomes:
    """Who scored what on which text.

    Attributes:
        probes: unit rows of the texts, each once, (p, dim) float32. experts: how many experts there are.
        probe, expert: of each outcome, (n,). reporter: who says so, (n,).
        score: 0..1, (n,). cost: (n,), nan where it is not known.
    """

    probes: Floats
    experts: int
    probe: Ints
    expert: Ints
    reporter: Ints
    score: Doubles
    cost: Doubles

    @cached_property
    def cells(self) -> Cells:
        """The same with one entry for an expert and a text: the mean over what is said of both."""
        place = self.expert * len(self.probes) + self.probe
        found, inverse = np.unique(place, return_inverse=True)
        known = np.isfinite(self.cost)
        priced = np.bincount(inverse[known], minlength=len(found))
        costs = np.bincount(inverse[known], weights=self.cost[known], minlength=len(found))
        return Cells(
            expert=found // max(len(self.probes), 1),
            probe=found % max(len(self.probes), 1),
            score=np.bincount(inverse, weights=self.score, minlength=len(found)) / np.bincount(inverse),
            cost=np.where(priced > 0, costs / np.maximum(priced, 1), np.nan),
            starts=np.searchsorted(found, np.arange(self.experts + 1) * max(len(self.probes), 1)),
        )


@dataclass(frozen=True)
class Cells:
    """Scores and costs (n,) by expert and then by probe; expert e has those from starts[e] to starts[e + 1]."""

    expert: Ints
    probe: Ints
    score: Doubles
    cost: Doubles
    starts: Ints


@dataclass(frozen=True)
class Prediction:
    """What a router expects of every expert.

    Attributes:
        scores: what experts are ranked by, (experts,); nan where nothing is known.
        quality: the expected score of the answer, 0..1, which decides between equal scores.
        costs: the expected cost; nan where it is not known.
    """

    scores: Doubles
    quality: Doubles
    costs: Doubles | None = None


Predict = Callable[[Floats], Prediction]


class OutcomeParams(Protocol):
    """What the params of every router from outcomes have."""

    @property
    def min_score(self) -> float | None:
        """Score below which an expert is no match."""


class OutcomeRouter(ABC):
    """A router that knows experts by their outcomes alone.

    Attributes:
        lacks: what to report, where it has too little to predict anything.
        learns: whether `fit` takes its time, so that what it returns is worth keeping.
    """

    learns = False

    lacks = "Report how experts did with POST /api/v1/outcomes/: {adapter, text, score}."

    def __init__(self, params: OutcomeParams) -> None:
        self.params = params

    @abstractmethod
    def fit(self, outcomes: Outcomes) -> Predict | None:
        """Return what predicts for the unit rows (m, dim) of a query; None where the outcomes are too few for it."""

    def keep(self, scores: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return which scores (k,) reach `min_score`."""
        return reached(scores, self.params.min_score)

    def weigh(self, scores: NDArray[np.floating]) -> Floats:
        """Return the scores divided by their sum; (k,), float32."""
        return shares(scores)


def kernel(cosines: NDArray[np.floating]) -> Doubles:
    """Return exp((cos - 1) / BANDWIDTH): 1 on the very text, 0.37 at .9, 0.02 at .6."""
    weights: Doubles = np.exp((np.minimum(cosines.astype(np.float64), 1.0) - 1.0) / BANDWIDTH)
    return weights


@dataclass(frozen=True)
class Expected:
    """What outcomes near a query let one expect.

    Attributes:
        expected: scores, (experts,). unmeasured: that of an expert without outcomes near.
        shifts: how far the expected scores are above that one, (experts,).
        weights: how much each outcome counts, (n,); cosines: of its text with the nearest of the query's, (n,).
    """

    shifts: Doubles
    expected: Doubles
    unmeasured: float
    weights: Doubles
    cosines: Doubles


def expect(rows: Floats, outcomes: Outcomes) -> Expected:
    """Return what the outcomes near a query, unit rows (m, dim), say of every expert.

    An outcome weighs `kernel` of its cosine with the nearest of the query's texts; those of one reporter on one expert
    weigh CAP together at most. An expert's expected score is its weighted mean, with PRIOR more outcomes that scored
    what is expected of an expert without any: the mean over the experts measured near by, and GUESSES more of GUESS.
    """
    if not len(outcomes.score):
        nobody, nothing = np.full(outcomes.experts, GUESS), np.empty(0)
        return Expected(nobody - GUESS, nobody, GUESS, nothing, nothing)
    near = (outcomes.probes.astype(np.float64) @ rows.astype(np.float64).T).max(axis=1)
    cosines = near[outcomes.probe]
    weights = kernel(cosines)
    weights[weights < FLOOR] = 0.0
    _, said = np.unique(outcomes.reporter * outcomes.experts + outcomes.expert, return_inverse=True)
    together = np.bincount(said, weights=weights)
    weights *= np.minimum(1.0, CAP / np.maximum(together, CAP))[said]
    mass = np.bincount(outcomes.expert, weights=weights, minlength=outcomes.experts)
    sums = np.bincount(outcomes.expert, weights=weights * outcomes.score, minlength=outcomes.experts)
    means = np.divide(sums, mass, out=np.zeros_like(sums), where=mass > 0)
    counted = np.minimum(mass, 1.0)
    unmeasured = float((GUESSES * GUESS + counted @ means) / (GUESSES + counted.sum()))
    expected = (PRIOR * unmeasured + sums) / (PRIOR + mass)
    return Expected(expected - unmeasured, expected, unmeasured, weights, cosines)


def shifted(scores: Doubles, shifts: Doubles) -> Doubles:
    """Return scores (k,) moved by STRENGTH · their standard deviation · the shifts (k,): in any router's own unit."""
    moved: Doubles = scores + STRENGTH * float(np.std(scores)) * shifts if len(scores) else scores
    return moved
