"""Adds a skill to a general expert, as much of it as the general one bears."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

from lora.catalogue import param
from lora.errors import LoraError
from lora.examples import MAX_EXAMPLES
from lora.merges import MERGES, Merged, Module, Modules
from lora.runtime.probe import Probe, SampleParams, probe_of
from lora.runtime.text import Batch
from lora.runtime.weighting import weighted_sum

GENERAL, SKILL = 0, 1  # positions of the inputs


@dataclass(frozen=True)
class AddSkillParams(SampleParams):
    """Parameters of `add_skill`."""

    scale: float | None = param(None, "strength of the skill; without one the best of the curve", minimum=0, maximum=10)
    tolerance: float = param(
        0.05, "how much of the general expert's gain over the base may be lost, as a fraction", minimum=0, maximum=1
    )
    bound: float = param(1.25, "largest strength of the curve", above=0, maximum=10)
    steps: int = param(5, "how many steps the curve takes from 0 to bound", minimum=1, maximum=40)
    samples: int = param(16, "how many samples of each input are looked at", minimum=1, maximum=MAX_EXAMPLES)


class Point(TypedDict):
    """What a strength of the skill does: losses on the skill's samples and on the general expert's."""

    scale: float
    skill_loss: float
    general_loss: float


@MERGES.register(
    "add_skill",
    params=AddSkillParams,
    title="Add a skill",
    summary="Adds the second input, a skill, to the first, a general expert. Runs the base with both at several "
    "strengths of the skill and takes the one with the least loss on the skill's samples at which the general expert "
    "keeps, but for the tolerance, its gain over the base on its own.",
    source="Task arithmetic, arXiv:2212.04089, section 2: a sum whose coefficient is chosen on samples",
    needs=("base_model", "labels"),
    weights="relative",
    family="data",
    when="When one expert must stay as good as it is while it learns what another one can; list it first.",
    lacks=("permutation", "scale"),
    max_inputs=2,
)
def add_skill(modules: Modules, params: AddSkillParams) -> Iterator[tuple[Module, Merged]]:
    """Yield ŵ₁·ΔW₁ + scale·ŵ₂·ΔW₂; a general expert alone stays as it is."""
    probe = probe_of(modules, "add_skill")
    weights = list(probe.weights)
    if probe.n == 2:
        general, skill = (probe.own_task(index, params) for index in (GENERAL, SKILL))
        curve = _curve(probe, general, skill, params)
        base_loss = probe.loss(general, None)
        scale = params.scale if params.scale is not None else _best(curve, base_loss, params.tolerance)
        weights[SKILL] *= scale
        probe.found |= {"weights": weights, "scale": scale, "base_loss": base_loss, "curve": curve}
    return weighted_sum(modules, lambda path, i: weights[i])


def _curve(probe: Probe, general: Sequence[Batch], skill: Sequence[Batch], params: AddSkillParams) -> list[Point]:
    """Measure every strength, ascending; the first is 0, the general expert alone."""
    scales = sorted({params.bound * step / params.steps for step in range(params.steps + 1)} | {params.scale or 0.0})
    curve: list[Point] = []
    for done, scale in enumerate(scales, 1):
        both = probe.adapted.numbers([probe.weights[GENERAL], scale * probe.weights[SKILL]])
        losses = probe.loss(skill, both), probe.loss(general, both)
        if not all(map(math.isfinite, losses)):
            raise LoraError(
                f"With the skill at {scale:g} the loss is no finite number: an adapter or its samples are broken."
            )
        curve.append({"scale": scale, "skill_loss": losses[0], "general_loss": losses[1]})
        probe.advance(done / len(scales))
    return curve


def borne_loss(curve: Sequence[Point], base_loss: float, tolerance: float) -> float:
    """Return the highest loss on its own samples that a general expert bears.

    It is measured by the distance from the base: the loss of a well trained expert is next to nothing, so that a
    multiple of it means nothing.
    """
    alone = curve[0]["general_loss"]
    return alone + tolerance * abs(base_loss - alone)


def _best(curve: Sequence[Point], base_loss: float, tolerance: float) -> float:
    """Return the strength with the least loss at the skill among those that the general expert bears."""
    most = borne_loss(curve, base_loss, tolerance)
    borne = [point for point in curve if point["general_loss"] <= most]
    return min(borne, key=lambda point: point["skill_loss"])["scale"]
