"""LoraHub: the weights with which candidates, summed, make a few labelled examples likely."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lora.catalogue import param
from lora.errors import LoraError
from lora.examples import Example
from lora.merges.lorahub import LorahubParams
from lora.runtime.probe import Probe, check_prompt
from lora.runtime.text import PROMPT
from lora.runtime.weighting import search_weights
from lora.scores import reached, shares
from lora.trial_routers import MOST_TRIED, TRIAL_ROUTERS, Floats, TrialRouter, Tried


@dataclass(frozen=True)
class LorahubRouterParams:
    """Parameters of `LoraHub`; those of the search as the merge `lorahub` has them."""

    candidates: int = param(
        20, "how many experts are summed, those nearest to the examples", minimum=1, maximum=MOST_TRIED
    )
    budget: int = param(40, "how many weights are tried", minimum=1, maximum=1000)
    bound: float = param(1.5, "largest size of a weight", above=0, maximum=10)
    shrinkage: float = param(0.05, "what the mean size of the weights adds to the loss", minimum=0)
    seed: int = param(0, "decides the steps of the search", minimum=0, maximum=2**32 - 1)
    prompt: str = param(PROMPT, "what the model is asked, with {line} for an example's input")
    min_score: float | None = param(None, "weight below which an expert is no match", minimum=0, maximum=10)

    def __post_init__(self) -> None:
        check_prompt(self.prompt)


@TRIAL_ROUTERS.register(
    "lorahub",
    params=LorahubRouterParams,
    title="LoraHub",
    summary="Searches the weights with which the experts nearest to labelled examples, summed, make them likely.",
    source="LoraHub, arXiv:2307.13269, section 3, with experts that were retrieved instead of drawn, on Σ wᵢ·ΔWᵢ "
    "instead of factors, with a (1+1) evolution strategy",
    needs=("base_model", "labels"),
    prototype="centroid",
    accepts=["examples"],
    when="With five or more labelled examples of a task that no single expert is for, to be merged.",
    k=20,
    only={},
)
class LoraHub(TrialRouter):
    """Score = the weight that was found, from the base alone as the start; an expert with one above 0 is a match."""

    params: LorahubRouterParams

    @property
    def most(self) -> int:
        """The parameter `candidates`."""
        return self.params.candidates

    def rank(self, probe: Probe, examples: Sequence[Example], *, explain: bool) -> Tried:
        """Return the weights that were found, and what is lost without each.

        Raises: LoraError: no weights gave a finite loss.
        """
        own = self.params
        search = LorahubParams(seed=own.seed, prompt=own.prompt, examples=tuple(examples))
        weights = tuple(search_weights(probe, search, "evolution", own.budget, own.bound, own.shrinkage))
        before = probe.found["base_loss"]
        if not math.isfinite(before):
            raise LoraError("The base alone gives no finite loss on these examples: nothing can be compared with it.")
        after = probe.found["loss"] - own.shrinkage * sum(map(abs, weights)) / len(weights)
        loss = {"before": before, "after": after, "tried": len(probe.found["losses"])}
        evidence = list(_without(probe, search, weights)) if explain else []
        return Tried(np.array(weights), weights, loss, evidence)

    def keep(self, scores: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return which weights (k,) are above 0 and reach `min_score`."""
        kept: NDArray[np.bool_] = (scores > 0) & reached(scores, self.params.min_score)
        return kept

    def weigh(self, scores: NDArray[np.floating]) -> Floats:
        """Return the weights divided by their sum, (k,)."""
        return shares(scores)


def _without(probe: Probe, search: LorahubParams, weights: Sequence[float]) -> Iterator[Mapping[str, float]]:
    """Yield for every expert the loss without it, where that is a number; nothing where it is not in the sum."""
    task = probe.task(search, labelled=True)
    for i, weight in enumerate(weights):
        loss = math.nan
        if weight:
            loss = probe.loss(task, probe.adapted.numbers([w * (j != i) for j, w in enumerate(weights)]))
        yield {"loss_without": loss} if math.isfinite(loss) else {}
