"""A recipe's inputs, weights and output, checked without reading a tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lora.config import LoraConfig
from lora.errors import InvalidParams
from lora.examples import Example
from lora.layout import Layout
from lora.merges import MERGES
from lora.weights import SAFETENSORS_DTYPES

MAX_RANK = 4096


@dataclass(frozen=True)
class MergeInput:
    """One input of a recipe.

    Attributes:
        weights_path: its safetensors file.
        weight: as the recipe gives it; None is the method's default.
        name: "owner/name", for messages.
        digest: sha256 of the weights file, hex: what the random masks of this input are drawn from.
        samples: what the adapter is for, shown; only methods that run the base look at them.
    """

    weights_path: Path
    layout: Layout
    config: LoraConfig
    weight: float | None
    name: str
    digest: str
    samples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class OutputSpec:
    """What the merged adapter looks like.

    Attributes:
        rank_mode: "exact" (lossless), "fixed" (`rank_value`), "max_input" (the highest rank among the inputs) or
            "energy" (the lowest rank at which every module keeps the fraction `rank_value` of ‖ΔW‖²).
        rank_value: an int in [1, 4096] for "fixed" (the file has less where no module can have as much), a number
            in (0, 1] for "energy", else None.
        dtype: "float32", "bfloat16" or "float16"; None is the widest of the inputs, at most float32.
    Raises: InvalidParams: on construction, when a value is out of range.
    """

    rank_mode: Literal["exact", "fixed", "max_input", "energy"] = "max_input"
    rank_value: float | int | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        value = self.rank_value
        is_number = type(value) in (int, float)
        if self.rank_mode == "fixed" and not (type(value) is int and 1 <= value <= MAX_RANK):
            raise InvalidParams(f"rank.value must be a whole number from 1 to {MAX_RANK} for fixed, not {value!r}.")
        if self.rank_mode == "energy" and not (is_number and 0 < float(value or 0) <= 1):
            raise InvalidParams(f"rank.value must be above 0 and at most 1 for energy, not {value!r}.")
        if self.rank_mode in ("exact", "max_input") and value is not None:
            raise InvalidParams(f"rank.value has no meaning for {self.rank_mode}; leave it out.")
        if self.rank_mode not in ("exact", "fixed", "max_input", "energy"):
            raise InvalidParams(f"rank.mode must be exact, fixed, max_input or energy, not {self.rank_mode!r}.")
        if self.dtype is not None and self.dtype not in SAFETENSORS_DTYPES:
            raise InvalidParams(f"dtype must be one of {', '.join(SAFETENSORS_DTYPES)}, not {self.dtype!r}.")


def default_rank_mode(method: str) -> str:
    """Return the mode of the output's rank where a recipe names none; the method may be unknown."""
    return _only_rank_mode(method) or "max_input"


def check_rank_mode(method: str, output: OutputSpec) -> None:
    """Check that a method can write an output of this rank mode.

    Raises: InvalidParams: it cannot.
    """
    only = _only_rank_mode(method)
    if only and output.rank_mode != only:
        raise InvalidParams(
            f"{method} cuts nothing off: its rank.mode is {only}, not {output.rank_mode}. Leave rank.mode out, or take "
            "svd, which compresses to any rank."
        )


def _only_rank_mode(method: str) -> str | None:
    return MERGES.get(method).traits.get("rank_mode") if method in MERGES.names() else None


def resolve_weights(method: str, weights: Sequence[float | None]) -> list[float]:
    """Return the weights that a method applies to its inputs.

    Args:
        method: a merge method. Absolute ones take the weights as they are, None as 1/n; relative ones take
            ŵᵢ = wᵢ·n/Σ|w|, and all None as 1 each.
        weights: one per input, as the recipe gives them.
    Raises: InvalidParams: a weight is not finite, all are zero, only some of the relative ones are given, or there are
        more inputs than the method takes.
    """
    n = len(weights)
    most = MERGES.get(method).traits.get("max_inputs", n)
    if n > most:
        raise InvalidParams(f"{method} takes at most {most} inputs, not {n}.")
    given = [weight for weight in weights if weight is not None]
    if not all(math.isfinite(weight) for weight in given):
        raise InvalidParams("Weights must be finite numbers.")
    relative = MERGES.get(method).traits["weights"] == "relative"
    if relative and given and len(given) < n:
        raise InvalidParams(f"The weights of {method} are relative to each other: give all of them or none.")
    default = 1.0 if relative else 1 / n
    resolved = [default if weight is None else float(weight) for weight in weights]
    total = sum(abs(weight) for weight in resolved)
    if total == 0 or not math.isfinite(total):
        raise InvalidParams("The weights must not all be zero, nor overflow.")
    return [weight * n / total for weight in resolved] if relative else resolved


def known_rank(output: OutputSpec, inputs: Sequence[MergeInput]) -> int | None:
    """Return the file's rank where it does not depend on the result, at most the highest full rank; else None."""
    modules = [module for item in inputs for module in item.layout.modules.values()]
    if output.rank_mode == "fixed":
        wanted = int(output.rank_value or 0)
    elif output.rank_mode == "max_input":
        wanted = max(module.rank for module in modules)
    else:
        return None
    return min(wanted, max(min(module.d_in, module.d_out) for module in modules))
