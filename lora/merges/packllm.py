"""PackLLM on ΔW: weights by how little each input is surprised by the prompts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from lora.catalogue import param
from lora.merges import MERGES, Merged, Module, Modules
from lora.runtime.probe import ExampleParams, probe_of
from lora.runtime.weighting import weighted_sum


@dataclass(frozen=True)
class PackllmParams(ExampleParams):
    """Parameters of `packllm`."""

    temperature: float = param(0.1, "τ: low values follow the least surprised input, high ones all alike", above=0)


@MERGES.register(
    "packllm",
    params=PackllmParams,
    title="PackLLM",
    summary="Runs the base with each input on top and weighs the inputs by their perplexity on prompts alone.",
    source="PackLLM, arXiv:2404.11531, section 3.1 (PackLLM-sim), on ΔW instead of logits",
    needs=("base_model", "samples"),
    weights="relative",
    family="data",
    when="When there are prompts of the task but no answers, and the experts were trained on prompts like these.",
    lacks=("scale", "zero_adapter"),
)
def packllm(modules: Modules, params: PackllmParams) -> Iterator[tuple[Module, Merged]]:
    """Yield Σ λᵢ·ŵᵢ·ΔWᵢ with λ = softmax(−sᵢ/τ), s the logarithm of the perplexity with ŵᵢ·ΔWᵢ on the base."""
    probe = probe_of(modules, "packllm")
    task = probe.task(params, labelled=False)
    surprises = []
    for i, weight in enumerate(probe.weights):
        surprises.append(probe.surprise(task, probe.adapted.one(i, weight)))
        probe.advance((i + 1) / probe.n)
    least = min(surprises)
    shares = [math.exp((least - surprise) / params.temperature) for surprise in surprises]
    weights = [share / sum(shares) * weight for share, weight in zip(shares, probe.weights, strict=True)]
    probe.found |= {"weights": weights, "log_perplexities": surprises}
    return weighted_sum(modules, lambda path, i: weights[i])
