"""RouteLLM's matrix factorisation: which expert wins on a text, learned from who did better on known ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lora.catalogue import param
from lora.outcomes import Doubles, Floats, Ints, OutcomeRouter, Outcomes, Predict, Prediction
from lora.prototypes.outcomes import score_table
from lora.routers import ROUTERS

# Cells of the table that a fit looks at, of the newest texts.
MAX_CELLS = 1_000_000
# Pairs that a fit looks at, drawn from a fixed seed: what takes a few seconds.
MAX_PAIRS = 10_000
STEPS = 200
RATE = 0.05


@dataclass(frozen=True)
class RoutellmMfParams:
    """Parameters of `RoutellmMf`."""

    dim: int = param(16, "length of the vectors that stand for experts; RouteLLM takes 128", minimum=1, maximum=128)
    decay: float = param(1e-3, "weight of the squared length of the parameters", minimum=0)
    min_score: float | None = param(None, "probability below which an expert is no match", minimum=0, maximum=1)


@ROUTERS.register(
    "routellm_mf",
    params=RoutellmMfParams,
    title="RouteLLM",
    summary="Ranks experts by the odds that they beat the others, by a bilinear model fitted to who did better.",
    source="RouteLLM, arXiv:2406.18665, matrix factorisation, for many experts and with the site's own encoder; pairs "
    "are experts with unequal scores on one text",
    needs=("outcomes",),
    prototype="outcomes",
    accepts=["text", "texts", "examples", "vector", "vectors"],
    when="Where outcomes tell which of two answers was better, such as votes, rather than how good each was.",
    k=3,
)
class RoutellmMf(OutcomeRouter):
    """δ(e, x) = u·(p̂_e ∘ W·x) with P(a beats b) = σ(δ_a - δ_b); score = σ(δ_e - the mean δ), the mean over texts."""

    lacks = (
        "Report which of two experts or more did better on the same texts with POST /api/v1/outcomes/: "
        "{adapter, text, score}, with scores that differ."
    )

    learns = True

    params: RoutellmMfParams

    def fit(self, outcomes: Outcomes) -> Predict | None:
        """Return the fitted model; None where no text has a winner."""
        texts, table, experts = score_table(outcomes, MAX_CELLS)
        count = outcomes.experts
        if not len(texts):
            return None
        model = fit_model(texts, len(experts), pairs(table), self.params.dim, self.params.decay)

        def predict(rows: Floats) -> Prediction:
            deltas = model.deltas(rows.astype(np.float64))
            scores = np.full(count, np.nan)
            scores[experts] = _sigmoid(deltas - deltas.mean(axis=1, keepdims=True)).mean(axis=0)
            return Prediction(scores, scores)

        return predict


@dataclass
class Factors:
    """Attributes: experts: P (n, r), of which the directions count. text: W (r, dim). mix: u (r,)."""

    experts: Doubles
    text: Doubles
    mix: Doubles

    def deltas(self, rows: Doubles) -> Doubles:
        """Return δ of texts (m, dim) and experts, (m, n)."""
        found: Doubles = (rows @ self.text.T * self.mix) @ _directions(self.experts).T
        return found


def pairs(table: Doubles) -> Ints:
    """Return (text, better, worse) of experts with unequal scores on one text, (b, 3); at most MAX_PAIRS of them.

    Args:
        table: scores (p, n), nan where an expert was not measured.
    """
    found = []
    rng = np.random.Generator(np.random.PCG64(0))
    each = max(1, MAX_PAIRS // max(len(table), 1))
    for text, row in enumerate(table):
        better, worse = np.nonzero(row[:, None] > row[None])
        if len(better) > each:
            chosen = np.sort(rng.permutation(len(better))[:each])
            better, worse = better[chosen], worse[chosen]
        found.append(np.stack([np.full(len(better), text), better, worse], axis=1))
    battles = np.concatenate(found) if found else np.empty((0, 3), dtype=np.int64)
    return battles[-MAX_PAIRS:].astype(np.int64)


def loss_and_gradient(model: Factors, rows: Doubles, battles: Ints, decay: float) -> tuple[float, Factors]:
    """Return the mean of -log σ(δ_better - δ_worse) + decay · |parameters|², and its gradient."""
    text, better, worse = battles.T
    directions = _directions(model.experts)
    hidden = rows @ model.text.T
    gap = directions[better] - directions[worse]
    odds = ((hidden[text] * model.mix) * gap).sum(axis=1)
    slope = -_sigmoid(-odds)[:, None] / len(battles)
    pull = slope * hidden[text] * model.mix
    toward = _summed(better, pull, len(directions)) - _summed(worse, pull, len(directions))
    lengths = np.linalg.norm(model.experts, axis=1, keepdims=True)
    # Of a direction only what is across it.
    across = (toward - directions * (toward * directions).sum(axis=1, keepdims=True)) / lengths
    lift = _summed(text, slope * gap * model.mix, len(rows))
    loss = float(np.logaddexp(0, -odds).mean()) + decay * float((model.text**2).sum() + (model.mix**2).sum())
    gradient = Factors(
        experts=across,
        text=lift.T @ rows + 2 * decay * model.text,
        mix=(slope * gap * hidden[text]).sum(axis=0) + 2 * decay * model.mix,
    )
    return loss, gradient


def fit_model(probes: Floats, n: int, battles: Ints, dim: int, decay: float) -> Factors:
    """Return the factors after STEPS steps of Adam over all pairs, from a fixed seed."""
    rows = probes.astype(np.float64)
    rng = np.random.Generator(np.random.PCG64(0))
    model = Factors(
        rng.standard_normal((n, dim)), rng.standard_normal((dim, rows.shape[1])) / np.sqrt(dim), np.ones(dim)
    )
    first, second = dict.fromkeys(vars(model), 0.0), dict.fromkeys(vars(model), 0.0)
    for step in range(1, STEPS + 1):
        _, gradient = loss_and_gradient(model, rows, battles, decay)
        for name, slope in vars(gradient).items():
            first[name] = 0.9 * first[name] + 0.1 * slope
            second[name] = 0.999 * second[name] + 0.001 * slope**2
            ahead = first[name] / (1 - 0.9**step) / (np.sqrt(second[name] / (1 - 0.999**step)) + 1e-8)
            setattr(model, name, getattr(model, name) - RATE * ahead)
    return model


def _summed(places: Ints, values: Doubles, count: int) -> Doubles:
    """The sums (count, r) of values (b, r) by their places; np.add.at is ten times as slow."""
    found: Doubles = np.stack([np.bincount(places, column, count) for column in values.T], axis=1)
    return found


def _directions(rows: Doubles) -> Doubles:
    found: Doubles = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


def _sigmoid(x: Doubles) -> Doubles:
    found: Doubles = np.exp(-np.logaddexp(0, -x))
    return found
