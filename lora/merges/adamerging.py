"""AdaMerging: a weight per module and input, learned so that the model answers prompts with confidence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING

from lora.catalogue import param
from lora.lazy_torch import torch
from lora.merges import MERGES, Merged, Module, Modules
from lora.runtime.probe import ExampleParams, Probe, probe_of
from lora.runtime.weighting import weighted_sum

if TYPE_CHECKING:
    from torch import Tensor

MEAN_DECAY, SQUARE_DECAY, SMALLEST = 0.9, 0.999, 1e-8  # of Adam


@dataclass(frozen=True)
class AdamergingParams(ExampleParams):
    """Parameters of `adamerging`."""

    steps: int = param(100, "steps of Adam, each on one batch of prompts", minimum=1, maximum=2000)
    rate: float = param(0.01, "learning rate of Adam", above=0, maximum=1)
    start: float = param(0.3, "what every weight begins with", minimum=0, maximum=1)


@MERGES.register(
    "adamerging",
    params=AdamergingParams,
    title="AdaMerging",
    summary="Runs the base with the inputs on top and learns one weight per module and input, from prompts without "
    "answers, so that the entropy of the first word of the answer becomes small.",
    source="AdaMerging, arXiv:2310.02575, section 3.2 (layer-wise), on the next token of language models",
    needs=("base_model", "samples"),
    weights="relative",
    family="data",
    when="When there are prompts without answers, of tasks whose answer is one of a few words.",
    lacks=("identity", "scale", "zero_adapter"),
)
def adamerging(modules: Modules, params: AdamergingParams) -> Iterator[tuple[Module, Merged]]:
    """Yield Σ λₘᵢ·ŵᵢ·ΔWᵢ of every module m, with λ in [0, 1] from gradient descent on the entropy."""
    probe = probe_of(modules, "adamerging")
    paths = [module.layout.path for module in modules]
    learned = _learn(probe, paths, params)
    rows = dict(zip(paths, learned.tolist(), strict=True))
    probe.found |= {"weights": [float(value) for value in learned.mean(0)], "weights_by_module": rows}
    return weighted_sum(modules, lambda path, i: rows[path][i])


def _learn(probe: Probe, paths: list[str], params: AdamergingParams) -> Tensor:
    """Return λₘᵢ·ŵᵢ, (m, n), float64."""
    task = probe.task(params, labelled=False)
    given = probe.adapted.numbers(probe.weights)
    weights = given.new_full((len(paths), probe.n), params.start, requires_grad=True)
    mean, square = torch.zeros_like(weights), torch.zeros_like(weights)
    for done, batch in enumerate(islice(cycle(task), params.steps), 1):
        entropy = probe.entropy(batch, dict(zip(paths, weights * given, strict=True)))
        [gradient] = torch.autograd.grad(entropy, [weights])
        with torch.no_grad():
            mean = MEAN_DECAY * mean + (1 - MEAN_DECAY) * gradient
            square = SQUARE_DECAY * square + (1 - SQUARE_DECAY) * gradient.square()
            step = mean / (1 - MEAN_DECAY**done) / ((square / (1 - SQUARE_DECAY**done)).sqrt() + SMALLEST)
            weights.sub_(params.rate * step).clamp_(0, 1)
        probe.advance(done / params.steps)
    return (weights * given).detach()
