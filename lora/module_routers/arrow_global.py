"""Arrow for whole queries: how much more an expert's directions respond than to texts about nothing in particular."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot

import numpy as np
from numpy.typing import NDArray

from lora.catalogue import param
from lora.module_routers import (
    MODULE_ROUTERS,
    Baselines,
    Expert,
    Floats,
    ModuleRouter,
    Ranking,
    States,
    Vectors,
    unit_rows,
)

LEAST_DEVIATION = 1e-4  # of a response, which is in [0, 1]: less cannot be told apart
# What the spread of an expert is shrunk towards, in quadrature. Without any, experts with fewer modules lose; with much
# more, those whose modules go up and down together win.
PRIOR_SPREAD = 0.5
# What a nat of what samples say is worth, in standard deviations: with it softmax(score / SAMPLES_UNIT) is as likely as
# can be on the lines of docs/benchmarks.md, with their instruction and without.
SAMPLES_UNIT = 0.2
# Samples are never believed beyond all doubt, so that they cannot bury what the weights say.
LEAST_DOUBT = 0.001


@dataclass(frozen=True)
class ArrowGlobalParams:
    """Parameters of `ArrowGlobal`."""

    temperature: float = param(0.5, "softmax temperature of the weights, in standard deviations", above=0)
    min_score: float | None = param(None, "standard deviations below which an expert is no match")
    with_samples: bool = param(True, "whether samples count, too, where experts have some and texts are sent")


@MODULE_ROUTERS.register(
    "arrow_global",
    params=ArrowGlobalParams,
    title="Arrow, global",
    summary="Ranks experts by how much more their Arrow vectors respond than to generic texts; samples count, too.",
    source="ours, on the vectors of Arrow, arXiv:2405.11157",
    needs=("base_model",),
    prototype="arrow",
    accepts=["text", "texts", "examples", "hidden_states"],
    when="Where adapters come without samples: it needs nothing from their authors but the weights.",
    k=3,
)
class ArrowGlobal(ModuleRouter):
    """Score = mean over an expert's modules of z, divided by √(s² + 0.5²).

    z = (mean over tokens of |v·x|/|x|, less its mean μ on generic texts)/σ; s is what the mean z varies by on them.
    With `with_samples`, `by_samples` comes on top where the texts are known.
    """

    params: ArrowGlobalParams

    needs_baselines = True

    @property
    def counts_samples(self) -> bool:
        """The parameter `with_samples`."""
        return self.params.with_samples

    def rank(self, states: States, experts: Sequence[Expert]) -> Ranking:
        """Return the ranking by the mean z; an expert's score depends on no other expert."""
        paths = sorted({path for expert in experts for path in expert.vectors} & states.keys())
        parts = np.full((len(paths), len(experts)), np.nan)
        for row, path in enumerate(paths):
            known = [i for i, expert in enumerate(experts) if expert.baselines and path in expert.baselines.modules]
            if known:
                responses = response(states[path], np.stack([experts[i].vectors[path] for i in known]))
                means, scales = np.array([_figures(experts[i].baselines, path) for i in known]).T
                parts[row, known] = (responses - means) / scales
        return Ranking.of(paths, parts)


def by_samples(posterior: NDArray[np.floating], fits: float) -> NDArray[np.float64]:
    """Return what is added to the scores of n experts for what samples say of a query, (n,).

    SAMPLES_UNIT · log(n·p) with p = (1 − d)·posterior + d/n and the doubt d = 1 − fits, but at least LEAST_DOUBT: two
    independent witnesses multiply, and where samples are no witness, nothing is added.

    Args:
        posterior: (n,), probability of each expert by the samples, if the right one is among those that have some: 0
            where there are none; sums to 1.
        fits: probability that it is among them, in [0, 1].
    """
    n = len(posterior)
    doubt = max(1 - fits, LEAST_DOUBT)
    return SAMPLES_UNIT * np.log((1 - doubt) * n * posterior.astype(np.float64) + doubt)


def response(x: NDArray[np.floating], v: Floats) -> NDArray[np.float64]:
    """Return mean over tokens of |v·x|/|x|, (n,); x is (t, d_in), v holds n unit vectors (n, d_in)."""
    responses: NDArray[np.float64] = np.abs(unit_rows(x) @ v.astype(np.float64).T).mean(axis=0)
    return responses


def baselines(background: Sequence[States], vectors: Vectors) -> Baselines:
    """Return what an expert's vectors give on generic texts; without untrained modules.

    Args:
        background: what each of at least two texts sends into the modules.
    """
    paths = [path for path, v in vectors.items() if v.any() and all(path in states for states in background)]
    if not paths:
        return Baselines({}, 1.0)
    responses = np.array([[response(x[path], vectors[path][None])[0] for path in paths] for x in background])
    mean, deviation = responses.mean(axis=0), np.maximum(responses.std(axis=0), LEAST_DEVIATION)
    spread = float(((responses - mean) / deviation).mean(axis=1).std())
    modules = dict(zip(paths, zip(mean.tolist(), deviation.tolist(), strict=True), strict=True))
    return Baselines(modules, spread)


def _figures(known: Baselines | None, path: str) -> tuple[float, float]:
    """Return what is taken from a module's response, and what it is divided by; nan where nothing is known."""
    if known is None:
        return np.nan, np.nan
    mean, deviation = known.modules[path]
    return mean, deviation * hypot(known.spread, PRIOR_SPREAD)
