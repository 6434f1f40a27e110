"""What the Weight? by `prior` and `entropy`: experts mixed by how well each, on the base, foresees the task's texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lora.examples import Example
from lora.lazy_torch import torch
from lora.routers.what_the_weight import WhatTheWeight, WhatTheWeightParams
from lora.runtime.probe import Probe
from lora.runtime.text import LINE, batches
from lora.scores import reached
from lora.trial_routers import TRIAL_ROUTERS, Doubles, Floats, TrialRouter, Tried

# What one more text moves the prior by: the paper's.
DECAY = 0.3
WARNING = (
    "Experts are compared by how they foresee the texts alone, not by their answers. Adapters that were trained on "
    "answers only, as most are, have not learnt their prompts, and the right one may come first no more often than by "
    "chance. Trust this for experts that were trained on whole texts; otherwise compare answers, by POST /trials/."
)


@TRIAL_ROUTERS.register(
    "what_the_weight",
    params=WhatTheWeightParams,
    title="What the Weight?, by running the experts",
    summary="Weighs experts by how probable they find the examples, or how sure they are of what follows.",
    source="Holtermann et al. 2024, arXiv:2401.12756, domain prior and entropy, by the probability of whole texts "
    "where its code takes that of the last position",
    needs=("base_model",),
    prototype="centroid",
    accepts=["text", "examples"],
    when="For experts that were trained on whole texts of a domain, not on answers alone.",
    k=5,
    only={"score": ["prior", "entropy"]},
)
class ForesightWeight(TrialRouter):
    """Score = the prior after the last text; or (Σu − uᵢ)/((n − 1)·Σu), u the mean entropy. Either way their sum is 1.

    The prior begins at 1/n and goes, text by text, 0.3 of the way to the posterior ∝ prior·p(text | expert).
    """

    params: WhatTheWeightParams

    def __init__(self, params: WhatTheWeightParams) -> None:
        super().__init__(params)
        self._chosen = WhatTheWeight(params)

    def rank(self, probe: Probe, examples: Sequence[Example], *, explain: bool) -> Tried:
        """Return the scores by the inputs, in their order; outputs are not read."""
        read = [_read(probe, i, examples) for i in range(probe.n)]
        name, place, score = (
            ("log_likelihood", 0, posterior) if self.params.score == "prior" else ("entropy", 1, certainty)
        )
        values = np.array([one[place] for one in read])
        scores = np.full(len(values), -np.inf)
        if (sound := np.isfinite(values).all(axis=1)).any():
            scores[sound] = score(values[sound])
        means = np.where(sound, values.mean(axis=1), 0)
        evidence = [{name: value} for value in means.tolist()] if explain else []
        return Tried(scores, evidence=evidence, warnings={"prompts_only": WARNING})

    def keep(self, scores: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return which scores (k,) are finite and reach `min_score`."""
        kept: NDArray[np.bool_] = np.isfinite(scores) & reached(scores, self.params.min_score)
        return kept

    def weigh(self, scores: NDArray[np.floating]) -> Floats:
        """Return the scores divided by their sum, or 1/k each, (k,)."""
        return self._chosen.weigh(scores)


def posterior(likelihoods: Doubles) -> Doubles:
    """Return the prior of n experts after m texts, (n,), of log p(text | expert), (n, m)."""
    prior = np.full(len(likelihoods), 1 / len(likelihoods))
    for of_text in likelihoods.T:
        found = np.log(prior) + of_text
        shares = np.exp(found - found.max())
        prior = (1 - DECAY) * prior + DECAY * shares / shares.sum()
    return prior


def certainty(entropies: Doubles) -> Doubles:
    """Return (Σu − uᵢ)/((n − 1)·Σu), (n,), u the means of entropies (n, m); equal where there is nothing to compare."""
    means = entropies.mean(axis=1)
    n, total = len(means), means.sum()
    if n == 1 or not total:
        return np.full(n, 1 / n)
    scores: Doubles = (total - means) / ((n - 1) * total)
    return scores


def _read(probe: Probe, index: int, examples: Sequence[Example]) -> tuple[Doubles, Doubles]:
    """Return log p and mean entropy of each text with one expert on the base, (m,) each."""
    coefficients = probe.adapted.one(index)
    likelihoods, entropies = [], []
    for done, example in enumerate(examples, 1):
        # One by one: batches of equal lengths would change the order, which the prior follows.
        [text] = batches([Example(example.input)], probe.base.tokens, LINE)
        likelihood, entropy = probe.reading(text, coefficients)
        likelihoods.append(likelihood)
        entropies.append(entropy)
        probe.advance((index + done / len(examples)) / probe.n)
    return torch.cat(likelihoods).numpy(), torch.cat(entropies).numpy()
