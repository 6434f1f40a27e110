"""What is known of a merge before it is made: how its inputs relate, and what a weighted sum of them would keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lora.energy import EnergyCurve
from lora.interference import Interference, module_interference
from lora.lazy_torch import torch
from lora.merging import FileModules
from lora.moments import Moments, moments
from lora.recipe import MergeInput
from lora.serving_rules import MAX_LORA_RANKS

# Where a number is told in words. They are hints to look closer: none of them predicts how a merge does at a task.
DOMINATING = 2.0  # times the second strongest
UNEVEN = 4.0  # strongest to weakest
ALIKE = 0.99
SHARED, TIMES_CHANCE = 0.25, 5.0
CONFLICTING = 0.6  # what normally distributed entries of cosine -0.3 have
ENOUGH_ENERGY = 0.95
HIGH_SCALING = 16.0
NAMED_PAIRS = 3

Measures = dict[str, Any]
Told = dict[str, str]


@dataclass(frozen=True)
class Measured:
    """Inputs that were measured once, for any weights."""

    interference: Interference
    parts: tuple[Moments, ...]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    def measures(self, weights: Sequence[float]) -> Measures:
        """Return what `Interference.as_json` does, and what follows from the weights as the method applies them:

        norms: by input ‖ΔWᵢ‖, without its weight.
        contributions: by input its share of the weighted sum, ⟨wᵢ·ΔWᵢ, ΔW⟩/‖ΔW‖²; None where the sum is zero.
        kept: what ranks 1, 2, … keep of the energy ‖ΔW‖² of the weighted sum.
        dominates: `{input, ratio}` of the input whose weighted ΔW is at least twice as strong as any other; None.
        """
        curve = EnergyCurve()
        for part in self.parts:
            curve.add(part.energies(weights))
        norms = self.interference.norms
        return self.interference.as_json() | {
            "norms": norms,
            "contributions": self._contributions(weights),
            "kept": curve.kept,
            "dominates": _dominating(_strengths(weights, norms)),
        }

    def _contributions(self, weights: Sequence[float]) -> list[float] | None:
        own = torch.tensor(list(weights), dtype=torch.float64)
        parts = own * (self.interference.products @ own)
        size = own * own * self.interference.products.diagonal()
        if float(parts.sum()) <= 1e-12 * float(size.sum()):
            return None
        return [round(share, 6) for share in (parts / parts.sum()).tolist()]


def measure(
    inputs: Sequence[MergeInput],
    *,
    progress: Callable[[float], None] = lambda fraction: None,
    device: str = "cpu",
) -> Measured:
    """Measure adapters that can be merged, one module at a time.

    Args:
        inputs: plain LoRA adapters; their weights are not used.
        progress: called with a fraction in [0, 1] after every module.
    """
    whole, parts = Interference(len(inputs)), []
    with FileModules(inputs, [1.0] * len(inputs), None, lambda: False, device) as modules:
        for module in modules:
            part = moments(module)
            whole.add(module_interference(module, part))
            parts.append(part)
            progress(len(parts) / len(modules))
    return Measured(whole, tuple(parts))


def measure_warnings(
    measures: Measures, inputs: Sequence[MergeInput], weights: Sequence[float], rank: int | None
) -> Iterator[Told]:
    """Yield what stands out, in words with the number that was measured.

    Args:
        measures: of these inputs and weights.
        rank: of the output; None where the result decides.
    """
    names = [item.name for item in inputs]
    yield from _strength_warnings(names, _strengths(weights, measures["norms"]))
    yield from _pair_warnings(names, measures)
    if rank is not None:
        yield from _rank_warning(measures["kept"], rank)
    yield from _scaling_warnings(inputs)


def _strengths(weights: Sequence[float], norms: Sequence[float]) -> list[float]:
    """‖wᵢ·ΔWᵢ‖."""
    return [abs(weight) * norm for weight, norm in zip(weights, norms, strict=True)]


def _dominating(strengths: Sequence[float]) -> dict[str, Any] | None:
    ranked = sorted(range(len(strengths)), key=lambda i: -strengths[i])
    if len(ranked) < 2 or not strengths[ranked[1]] or strengths[ranked[0]] < DOMINATING * strengths[ranked[1]]:
        return None
    return {"input": ranked[0], "ratio": float(f"{strengths[ranked[0]] / strengths[ranked[1]]:.4g}")}


def _strength_warnings(names: Sequence[str], strengths: Sequence[float]) -> Iterator[Told]:
    silent = [name for name, strength in zip(names, strengths, strict=True) if strength == 0]
    if silent:
        yield {"code": "no_effect", "message": f"{_listed(silent)} would change nothing: ‖w·ΔW‖ is 0."}
    if heard := [i for i, strength in enumerate(strengths) if strength]:
        most, least = max(heard, key=lambda i: strengths[i]), min(heard, key=lambda i: strengths[i])
        if (ratio := strengths[most] / strengths[least]) > UNEVEN:
            message = (
                f"{names[most]} is {ratio:.1f} times as strong as {names[least]} (‖w·ΔW‖ {strengths[most]:.3g} to "
                f"{strengths[least]:.3g}): little of {names[least]} may show. Weights can even that out."
            )
            yield {"code": "norm_ratio", "message": message}


def _pair_warnings(names: Sequence[str], measures: Measures) -> Iterator[Told]:
    n = len(names)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    alike = [(measures["cosine"][i][j], i, j) for i, j in pairs if measures["cosine"][i][j] > ALIKE]
    if alike:
        told = _pairs(names, alike, "cosine")
        yield {"code": "near_duplicate", "message": f"Nearly the same change: {told}. What they share counts twice."}
    # Of the row spaces no warning is given: training from one random start is enough for a large overlap there.
    chance = measures["overlap_chance"]["out"]
    shared = [(measures["overlap"][i][j], i, j) for i, j in pairs]
    shared = [(v, i, j) for v, i, j in shared if v > max(SHARED, TIMES_CHANCE * max(chance[i], chance[j]))]
    if shared and len(shared) > len(alike):
        expected = max(max(chance[i], chance[j]) for _, i, j in shared)
        message = f"They write to the same directions: {_pairs(names, shared, 'overlap')}; by chance it would be "
        yield {"code": "subspace_overlap", "message": f"{message}{expected:.3f}. There they add up or cancel."}
    rates = [(measures["sign_conflict"][i][j], i, j) for i, j in pairs]
    if against := [(rate, i, j) for rate, i, j in rates if rate is not None and rate > CONFLICTING]:
        told = _pairs(names, against, "of the signs differ", percent=True)
        message = f"They pull against each other: {told}, where 50 % is what strangers do."
        yield {"code": "sign_conflict", "message": message}


def _rank_warning(kept: Sequence[float], rank: int) -> Iterator[Told]:
    share = kept[min(rank, len(kept)) - 1]
    if share >= ENOUGH_ENERGY:
        return
    message = f"Rank {rank} keeps {100 * share:.1f} % of the energy ‖ΔW‖² of the weighted sum."
    higher = [bucket for bucket in MAX_LORA_RANKS if bucket > rank]
    enough = next((b for b in higher if kept[min(b, len(kept)) - 1] >= ENOUGH_ENERGY), None)
    if enough:
        message += f" Rank {enough}, which vLLM serves, too, keeps {100 * kept[min(enough, len(kept)) - 1]:.1f} %."
    yield {"code": "low_energy", "message": message}


def _scaling_warnings(inputs: Sequence[MergeInput]) -> Iterator[Told]:
    for item in inputs:
        scalings = [module.scaling for module in item.layout.modules.values()]
        odd = max(scalings, key=lambda scaling: max(scaling, 1 / scaling if scaling > 0 else float("inf")))
        if not 1 / HIGH_SCALING <= odd <= HIGH_SCALING:
            message = (
                f"{item.name} multiplies B·A by {odd:.3g} (lora_alpha {item.config.lora_alpha:g}, rank {item.config.r}"
                f"{', rsLoRA' if item.config.use_rslora else ''}): check that this is what it was trained with."
            )
            yield {"code": "odd_scaling", "message": message}


def _pairs(names: Sequence[str], found: Sequence[tuple[float, int, int]], what: str, percent: bool = False) -> str:
    """Return the strongest pairs with their numbers, and how many more there are."""
    ranked = sorted(found, key=lambda item: (-item[0], item[1:]))
    shown = [
        f"{names[i]} and {names[j]} ({f'{100 * v:.0f} % {what}' if percent else f'{what} {v:.3f}'})"
        for v, i, j in ranked[:NAMED_PAIRS]
    ]
    more = len(ranked) - len(shown)
    return "; ".join(shown) + (f"; and {more} more pair{'s' if more > 1 else ''}" if more else "")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED_PAIRS])
    return shown + (f" and {len(names) - NAMED_PAIRS} more" if len(names) > NAMED_PAIRS else "")
