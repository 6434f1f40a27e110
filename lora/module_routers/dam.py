"""DAM: an expert whose samples look like the query in one late layer of the base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lora.catalogue import param
from lora.module_routers import MODULE_ROUTERS, Doubles, Expert, Floats, ModuleRouter, Ranking, States


@dataclass(frozen=True)
class DamParams:
    """Parameters of `Dam`."""

    shrinkage: float = param(0.2, "how far the common covariance is shrunk towards a ball", above=0, maximum=1)
    temperature: float = param(1.0, "softmax temperature of the weights; 1 are probabilities", above=0)
    min_score: float | None = param(None, "score below which an expert is no match; scores are at most 0")


@MODULE_ROUTERS.register(
    "dam",
    params=DamParams,
    title="DAM",
    summary="Gaussian classes of the samples' last tokens in one late layer of the base, with one covariance for all.",
    source="DAM, Cheng et al. 2024, with distances in units of the samples' own spread instead of cosines",
    needs=("base_model", "samples"),
    prototype="dam",
    accepts=["text", "texts", "hidden_states"],
    when="As activation, where a client can send the states of one layer only; behind it where prompts are bare.",
    k=3,
)
class Dam(ModuleRouter):
    """Score = −½·(x − μ)ᵀ·W⁻¹·(x − μ), x the last token; W is pooled over the experts in question and shrunk.

    W = (1 − a)·S + a·tr(S)/d·I, S the covariance of the rows about their experts' means. Without any spread, W = I.
    """

    params: DamParams

    def rank(self, states: States, experts: Sequence[Expert]) -> Ranking:
        """Return the ranking by the module that the vectors are of, of which `states` needs the last token."""
        paths = sorted({path for expert in experts for path in expert.vectors} & states.keys())
        parts = np.full((len(paths), len(experts)), np.nan)
        for row, path in enumerate(paths):
            known = [i for i, expert in enumerate(experts) if path in expert.vectors]
            parts[row, known] = self._scores(states[path][-1], [experts[i].vectors[path] for i in known])
        return Ranking.of(paths, parts)

    def _scores(self, x: Floats, classes: Sequence[Floats]) -> Doubles:
        """Return the scores (n,) of x (d,) for classes of rows (…, d)."""
        means = np.stack([rows.mean(axis=0, dtype=np.float64) for rows in classes])
        apart = np.concatenate([rows - mean for rows, mean in zip(classes, means, strict=True)])
        d = len(x)
        spread = apart.T @ apart / max(1, len(apart) - len(classes))
        ball = np.trace(spread) / d
        shrunk = (1 - self.params.shrinkage) * spread + self.params.shrinkage * ball * np.eye(d) if ball else np.eye(d)
        # |L⁻¹·(x − μ)|² with L·Lᵀ = W
        away = np.linalg.solve(np.linalg.cholesky(shrunk), (x.astype(np.float64) - means).T)
        scores: Doubles = -np.square(away).sum(axis=0) / 2
        return scores
