"""Classifier: which expert would answer best, by a linear head that was fitted to their scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lora.catalogue import param
from lora.outcomes import Doubles, Floats, OutcomeRouter, Outcomes, Predict, Prediction
from lora.prototypes.outcomes import score_table
from lora.routers import ROUTERS

# Cells of the table that a fit looks at, of the newest texts: what takes two or three seconds.
MAX_CELLS = 100_000
STEPS = 300


@dataclass(frozen=True)
class ClassifierParams:
    """Parameters of `Classifier`."""

    sharpness: float = param(
        0.1, "softmax temperature of the scores that are the targets: the lower, the more the best one counts", above=0
    )
    ridge: float = param(1e-4, "weight of the squared length of the head", above=0)
    min_score: float | None = param(None, "probability below which an expert is no match", minimum=0, maximum=1)


@ROUTERS.register(
    "classifier",
    params=ClassifierParams,
    title="Classifier",
    summary="Predicts which expert would answer best by a linear head over the embedding, fitted to their scores.",
    source="Zooter, arXiv:2311.08692: KL to the softmax of the scores, over the experts measured on a text; Routoo, "
    "arXiv:2401.13979: predicted from measured scores; a linear head in the place of a fine-tuned encoder",
    needs=("outcomes",),
    prototype="outcomes",
    accepts=["text", "texts", "examples", "vector", "vectors"],
    when="Where several experts were measured on the same hundred texts or more, and the best one is wanted.",
    k=3,
)
class Classifier(OutcomeRouter):
    """Score = softmax(W·[x, 1])_e, the mean over the texts; W minimises the mean KL to softmax(scores / sharpness)."""

    lacks = (
        "Report how two experts or more did on the same texts with POST /api/v1/outcomes/: {adapter, text, score}, "
        "with scores that differ."
    )

    learns = True

    params: ClassifierParams

    def fit(self, outcomes: Outcomes) -> Predict | None:
        """Return the fitted head; None where no text tells two experts apart."""
        texts, table, experts = score_table(outcomes, MAX_CELLS)
        count = outcomes.experts
        if not len(texts):
            return None
        head = fit_head(texts, table, self.params.sharpness, self.params.ridge)

        def predict(rows: Floats) -> Prediction:
            scores = np.full(count, np.nan)
            scores[experts] = _softmax(_with_one(rows) @ head).mean(axis=0)
            return Prediction(scores, scores)

        return predict


def fit_head(rows: Floats, table: Doubles, sharpness: float, ridge: float) -> Doubles:
    """Return W (dim + 1, experts) that minimises the mean over the texts of KL(softmax(scores / sharpness) ‖
    softmax(W·[x, 1])), both over the experts with a score, plus ridge · |W|².

    The loss is convex with a gradient of Lipschitz constant 1 + 2 · ridge: accelerated descent of fixed length.

    Args:
        rows: unit rows (p, dim). table: scores (p, experts), nan where an expert was not measured.
    """
    x = _with_one(rows)
    there = np.isfinite(table)
    targets = _softmax(np.where(there, table / sharpness, -np.inf))
    head = np.zeros((x.shape[1], table.shape[1]))
    ahead = head
    for step in range(STEPS):
        miss = _softmax(np.where(there, x @ ahead, -np.inf)) - targets
        gradient = x.T @ miss / len(x) + 2 * ridge * ahead
        last, head = head, ahead - gradient / (1 + 2 * ridge)
        ahead = head + step / (step + 3) * (head - last)
    return head


def _with_one(rows: Floats) -> Doubles:
    return np.hstack([rows.astype(np.float64), np.ones((len(rows), 1))])


def _softmax(logits: Doubles) -> Doubles:
    """Along the last axis; -inf is left out."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    found: Doubles = powers / powers.sum(axis=-1, keepdims=True)
    return found
