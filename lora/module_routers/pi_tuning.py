"""π-Tuning: the experts on whose tasks the base's answers depend on the same weights as on the query's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lora.catalogue import param
from lora.module_routers import MODULE_ROUTERS, Doubles, Expert, Floats, ModuleRouter, Ranking, States

# What keeps a quotient of two nothings at 0, of information whose mean is 1.
EPSILON = 1e-6


@dataclass(frozen=True)
class PiTuningParams:
    """Parameters of `PiTuning`."""

    temperature: float = param(1.0, "softmax temperature of the weights, with which the mixed adapter begins", above=0)
    min_score: float | None = param(
        None, "similarity below which an expert is no match; of two it is from 0 to 1", minimum=0, maximum=1
    )


@MODULE_ROUTERS.register(
    "pi_tuning",
    params=PiTuningParams,
    title="π-Tuning",
    summary="Compares the Fisher information of the base at labelled examples with that at the experts' samples.",
    source="π-Tuning, arXiv:2304.14381, selection and initial weights; its joint training is the client's",
    needs=("base_model", "labels"),
    prototype="fisher",
    accepts=["examples", "hidden_states"],
    when="With labelled examples of a task that is to be trained further from a mix of the nearest experts.",
    k=3,
)
class PiTuning(ModuleRouter):
    """Score = mean over modules of cos(a/(a+b), b/(a+b)), a of the query and b of the expert, entry by entry.

    Both are divided by their means over the modules that the two have in common: Fisher information shrinks with the
    loss, and a task that the base does well would be far from all others.
    """

    params: PiTuningParams

    def rank(self, states: States, experts: Sequence[Expert]) -> Ranking:
        """Return the ranking; `states` are the query's Fisher embedding, path → (1, d_in)."""
        paths = sorted({path for expert in experts for path in expert.vectors} & states.keys())
        parts = np.full((len(paths), len(experts)), np.nan)
        for column, expert in enumerate(experts):
            shared = [row for row, path in enumerate(paths) if path in expert.vectors]
            asked = _scaled([states[paths[row]][-1] for row in shared])
            known = _scaled([expert.vectors[paths[row]] for row in shared])
            parts[shared, column] = [similarity(a, b) for a, b in zip(asked, known, strict=True)]
        return Ranking.of(paths, parts)


def similarity(a: Doubles, b: Doubles) -> float:
    """Return the symmetric normalised cosine of two diagonals (d,), none of them negative: 0..1."""
    total = a + b + EPSILON
    one, other = a / total, b / total
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths else 0.0


def _scaled(parts: Sequence[Floats]) -> list[Doubles]:
    """Divide by the mean of all entries; what is below nothing counts as nothing."""
    wide = [np.maximum(part.astype(np.float64), 0) for part in parts]
    mean = sum(float(part.sum()) for part in wide) / max(1, sum(map(len, wide)))
    return [part / (mean or 1.0) for part in wide]
