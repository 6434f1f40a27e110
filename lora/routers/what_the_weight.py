"""What the Weight?: experts mixed by how alike their texts and those of the task are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lora.catalogue import param
from lora.lexical import document_similarity
from lora.routers import ROUTERS, Doubles, Floats, Ints, SampleRouter, TextSet, lengths_of
from lora.scores import equal, reached, shares

SHORTLIST = 100


@dataclass(frozen=True)
class WhatTheWeightParams:
    """Parameters of `WhatTheWeight`."""

    score: Literal["sentence_similarity", "tf_idf", "uniform", "prior", "entropy"] = param(
        "sentence_similarity",
        "sentence_similarity: mean of the cosines of all pairs, those below 0 as 0; tf_idf: cosine of the two word "
        f"counts, for the {SHORTLIST} experts nearest by sentence_similarity; uniform: as sentence_similarity, "
        "with equal weights; prior and entropy run the base model, in a job: which expert is least surprised by the "
        "texts, and which is surest of what follows",
    )
    weights: Literal["scores", "uniform"] = param("scores", "weights in proportion to the scores, or all the same")
    min_score: float | None = param(None, "score below which an expert is no match", minimum=0, maximum=1)


@ROUTERS.register(
    "what_the_weight",
    params=WhatTheWeightParams,
    title="What the Weight?",
    summary="Weighs experts by the mean similarity, or the shared words, of their samples and the examples.",
    source="Holtermann et al. 2024, arXiv:2401.12756; every text counts once where its code draws with replacement, "
    "and words are not stemmed",
    needs=("samples",),
    prototype="samples",
    accepts=["text", "texts", "examples", "vector", "vectors", "adapter"],
    when="With unlabelled examples of a new domain, to mix three to five experts; tf_idf where words tell most.",
    k=5,
)
class WhatTheWeight(SampleRouter):
    """Score = mean over all pairs of max(0, cos); or cos of the tf-idf of the joined texts; or 1, the nearest first."""

    def __init__(self, params: WhatTheWeightParams) -> None:
        self.params = params
        self.reads_texts = params.score == "tf_idf"
        self.shortlist = SHORTLIST if self.reads_texts else 0

    def compare(self, similarities: NDArray[np.floating], starts: Ints) -> Doubles:
        """Return the mean of each text's clipped cosines with an expert's samples, (m, experts)."""
        sums = np.add.reduceat(np.maximum(similarities, 0).astype(np.float64), starts, axis=1)
        return sums / lengths_of(starts, similarities.shape[1])

    def decide(self, compared: Doubles) -> Doubles:
        """Return the mean over the texts, (experts,)."""
        scores: Doubles = compared.mean(axis=0)
        return scores

    def rescore(self, query: TextSet, experts: Sequence[TextSet]) -> Doubles:
        """Return the cosines of the tf-idf of the joined texts, (n,)."""
        document = " ".join(query.texts)
        return np.array([document_similarity(document, " ".join(expert.texts)) for expert in experts])

    def keep(self, scores: Floats) -> NDArray[np.bool_]:
        """Return which scores (k,) reach `min_score`."""
        return reached(scores, self.params.min_score)

    def weigh(self, scores: Floats) -> Floats:
        """Return the scores divided by their sum, or 1/k each; (k,), float32."""
        is_uniform = "uniform" in (self.params.score, self.params.weights)
        return equal(scores) if is_uniform else shares(scores)
