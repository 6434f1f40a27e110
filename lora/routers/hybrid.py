"""Hybrid: the expert under which a text is most likely, by what it means and by what it looks like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lora.catalogue import param
from lora.hybrid.abstention import Judgement
from lora.routers import ROUTERS, Floats
from lora.scores import reached, softmax


@dataclass(frozen=True)
class HybridParams:
    """Parameters of `Hybrid`."""

    temperature: float | None = param(
        None, "softmax temperature of the weights; null takes the one calibrated when the space was fitted", above=0
    )
    min_score: float | None = param(None, "log density below which an expert is no match", maximum=0)
    abstain: bool = param(True, "whether to answer nothing where the text is of a kind that no expert is for")
    min_fit: float = param(
        0.001, "abstain, too, where the right expert is there with a lower probability; 0: never", minimum=0, maximum=1
    )


@ROUTERS.register(
    "hybrid",
    params=HybridParams,
    title="Hybrid",
    summary="Ranks experts by how likely the text is under each, from its meaning, characters, edges and layout.",
    source="Ours: Gaussian class means under one shared whitening, calibrated, with abstention; the score of an expert "
    "does not depend on the others",
    needs=("samples",),
    prototype="hybrid",
    accepts=["text", "texts", "examples", "adapter"],
    when="For prompts that look like the experts' samples, where the right expert has to come first, or none at all.",
    k=3,
)
class Hybrid:
    """Score = log density of the text around the expert's mean; several texts: the mean of theirs.

    Args:
        temperature: that of the fitted space.
    """

    def __init__(self, params: HybridParams, temperature: float = 1.0) -> None:
        self.params = params
        self.temperature = temperature

    def keep(self, scores: Floats) -> NDArray[np.bool_]:
        """Return which scores (k,) reach `min_score`."""
        return reached(scores, self.params.min_score)

    def answers(self, judgement: Judgement, threshold: float) -> bool:
        """Return whether to answer at all; `threshold` is that of the fitted space."""
        sure = judgement.familiar >= threshold and judgement.fits >= self.params.min_fit
        return sure or not self.params.abstain

    def weigh(self, scores: Floats) -> Floats:
        """Return softmax(scores / temperature); (k,), float32, sum 1."""
        return softmax(scores, self.params.temperature or self.temperature)
