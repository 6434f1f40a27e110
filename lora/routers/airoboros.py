"""Airoboros: the expert whose nearest samples lie closest to the prompt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lora.catalogue import param
from lora.routers import ROUTERS, Doubles, Floats, Ints, SampleRouter, lengths_of
from lora.scores import equal, reached


@dataclass(frozen=True)
class AiroborosParams:
    """Parameters of `Airoboros`."""

    neighbours: int = param(
        20, "how many of an expert's nearest samples count; always fewer than it has", minimum=1, maximum=1000
    )
    min_score: float | None = param(
        None, "minus the mean squared distance below which an expert is no match", minimum=-4, maximum=0
    )


@ROUTERS.register(
    "airoboros",
    params=AiroborosParams,
    title="Airoboros",
    summary="Picks the expert whose nearest samples have the smallest mean squared distance to the prompt.",
    source="airoboros lmoe, embedding router; with as many neighbours as samples it would compare raw means, so that "
    "fewer are taken",
    needs=("samples",),
    prototype="samples",
    accepts=["text", "texts", "examples", "vector", "vectors", "adapter"],
    when="For one prompt and experts with a hundred samples or more, which cover several kinds of prompts each.",
    k=1,
)
class Airoboros(SampleRouter):
    """Score = minus the mean of |x - s|² = 2 - 2·cos over the nearest samples s; several texts: the mean over them."""

    def __init__(self, params: AiroborosParams) -> None:
        self.params = params

    def compare(self, similarities: NDArray[np.floating], starts: Ints) -> Doubles:
        """Return minus the mean squared distances, (m, experts), to min(neighbours, samples - 1) samples or one."""
        compared = np.empty((len(similarities), len(starts)))
        counts = lengths_of(starts, similarities.shape[1])
        for count in np.unique(counts):
            # Experts with equally many samples go together.
            alike = np.flatnonzero(counts == count)
            columns = starts[alike][:, None] + np.arange(count)
            nearest = max(1, min(self.params.neighbours, int(count) - 1))
            part = similarities[:, columns].astype(np.float64)
            best = np.sort(part, axis=2)[:, :, -nearest:]
            compared[:, alike] = 2 * best.mean(axis=2) - 2
        return compared

    def decide(self, compared: Doubles) -> Doubles:
        """Return the mean over the texts, (experts,)."""
        scores: Doubles = compared.mean(axis=0)
        return scores

    def keep(self, scores: Floats) -> NDArray[np.bool_]:
        """Return which scores (k,) reach `min_score`."""
        return reached(scores, self.params.min_score)

    def weigh(self, scores: Floats) -> Floats:
        """Return 1/k each: its rule picks one expert; (k,), float32."""
        return equal(scores)
