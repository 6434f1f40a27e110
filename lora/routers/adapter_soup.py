"""AdapterSoup: the experts nearest to a handful of examples, mixed in equal parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lora.catalogue import param
from lora.mixture import fit_mixture, principal_axes
from lora.prototypes.centroid import centroid
from lora.routers import ROUTERS, Doubles, Floats, Ints, SampleRouter, TextSet, lengths_of
from lora.scores import equal, reached

SHORTLIST = 64
# Of each shortlisted expert, so that a mixture is fitted while the caller waits.
FITTED_SAMPLES = 20
AXES = 32
STEPS = 20


@dataclass(frozen=True)
class AdapterSoupParams:
    """Parameters of `AdapterSoup`."""

    selection: Literal["similarity", "gmm"] = param(
        "similarity",
        "similarity: cosine of the two means; gmm: share of the examples that fall into clusters of the expert's "
        f"samples, among the {SHORTLIST} nearest experts",
    )
    min_score: float | None = param(
        None, "score below which an expert is no match, beyond being positive", minimum=-1, maximum=1
    )


@ROUTERS.register(
    "adapter_soup",
    params=AdapterSoupParams,
    title="AdapterSoup",
    summary="Mixes in equal parts the experts whose samples resemble the examples, mean with mean or by clusters.",
    source="AdapterSoup, arXiv:2302.07027, selection by sentence similarity and by a Gaussian mixture",
    needs=("samples",),
    prototype="centroid",
    accepts=["examples", "text", "texts", "vector", "vectors", "adapter"],
    when="With a handful to a hundred unlabelled examples of a new domain, to merge what resembles them.",
    k=5,
)
class AdapterSoup(SampleRouter):
    """Score = cosine of the two means, or share of the examples; the best with a positive score are averaged uniformly.

    The mixture has a component per shortlisted expert, which starts at the mean of its samples and belongs in the end
    to the expert that has most of its mass.

    Attributes:
        prototype: the kind that it searches, with these params.
    """

    def __init__(self, params: AdapterSoupParams) -> None:
        self.params = params
        self.prototype = "samples" if params.selection == "gmm" else "centroid"
        self.shortlist = SHORTLIST if params.selection == "gmm" else 0

    def query(self, embeddings: Floats) -> Floats:
        """Return the normalised mean of the examples' unit rows (m, dim)."""
        return centroid(embeddings)

    def compare(self, similarities: NDArray[np.floating], starts: Ints) -> Doubles:
        """Return the mean cosine of each example with an expert's samples, (m, experts)."""
        sums = np.add.reduceat(similarities.astype(np.float64), starts, axis=1)
        return sums / lengths_of(starts, similarities.shape[1])

    def decide(self, compared: Doubles) -> Doubles:
        """Return the mean over the examples, (experts,), by which experts are shortlisted."""
        scores: Doubles = compared.mean(axis=0)
        return scores

    def rescore(self, query: TextSet, experts: Sequence[TextSet]) -> Doubles:
        """Return the share of the examples in each expert's components, (n,)."""
        parts = [_spread(expert.rows, FITTED_SAMPLES).astype(np.float64) for expert in experts]
        points = np.concatenate(parts)
        axes = principal_axes(points, AXES)
        means = np.stack([part.mean(axis=0) for part in parts])
        mixture = fit_mixture(points @ axes, means @ axes, STEPS)
        starts = np.cumsum([0, *map(len, parts[:-1])])
        owned = np.add.reduceat(mixture.posteriors(points @ axes), starts, axis=0)
        hits = mixture.posteriors(query.rows.astype(np.float64) @ axes).argmax(axis=1)
        scores: Doubles = np.bincount(owned.argmax(axis=0)[hits], minlength=len(experts)) / len(hits)
        return scores

    def keep(self, scores: Floats) -> NDArray[np.bool_]:
        """Return which scores (k,) are positive and reach `min_score`."""
        kept: NDArray[np.bool_] = (scores > 0) & reached(scores, self.params.min_score)
        return kept

    def weigh(self, scores: Floats) -> Floats:
        """Return 1/k each; (k,), float32."""
        return equal(scores)


def _spread(rows: Floats, count: int) -> Floats:
    """At most `count` rows, evenly spaced."""
    return rows if len(rows) <= count else rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)]
