"""SLERP: from one weight change to another along the arc between their directions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora.algebra import cosines, gram, one_thread
from lora.catalogue import param
from lora.lazy_torch import torch
from lora.merges import MERGES, Merged, Module, Modules

if TYPE_CHECKING:
    from torch import Tensor

NEARLY_PARALLEL = 0.9995  # |cos θ| from which mergekit's slerp takes the chord


@dataclass(frozen=True)
class SlerpParams:
    """Parameters of `slerp`."""

    t: float = param(0.5, "position between the first input (0) and the second (1)", minimum=0, maximum=1)


@MERGES.register(
    "slerp",
    params=SlerpParams,
    title="SLERP",
    summary="Goes from the first weight change to the second along the arc between them, module by module, so that "
    "the norm does not shrink on the way as in a mean.",
    source="Shoemake, Animating rotation with quaternion curves, 1985; thresholds of mergekit's slerp; here on ΔW",
    weights="relative",
    family="linear",
    when="For two adapters of similar tasks whose mean is too weak; t says how much of each.",
    lacks=("permutation", "zero_adapter"),
    max_inputs=2,
)
def slerp(modules: Modules, params: SlerpParams) -> Iterator[tuple[Module, Merged]]:
    """Yield (sin((1−t)θ)·ΔW₁ + sin(tθ)·ΔW₂)/sin θ of the weighted ΔWᵢ, with θ the angle between them.

    Where they are nearly parallel or opposite, (1−t)·ΔW₁ + t·ΔW₂. A ΔW of zero is at right angles to all.
    """
    for module in modules:
        if modules.n == 1:
            yield module, module.weighted
            continue
        with one_thread():
            pairs = cosines(gram(module.weighted))
        cosine = pairs[0, 1] if len(module.inputs) == 2 else torch.zeros_like(pairs[0, 0])
        shares = arc(cosine, params.t, NEARLY_PARALLEL).tolist()
        yield module, [delta.scaled(shares[i]) for i, delta in zip(module.inputs, module.weighted, strict=True)]


def arc(cosine: Tensor, t: float, nearly_parallel: float) -> Tensor:
    """Return what to multiply the two ends of arcs with, (2, …), at the position t.

    Args:
        cosine: of the angles between the ends, any shape.
        nearly_parallel: |cos θ| above which the chord is taken.
    """
    theta = cosine.clamp(-nearly_parallel, nearly_parallel).arccos()
    ends = torch.stack([((1 - t) * theta).sin(), (t * theta).sin()]) / theta.sin()
    chord = torch.stack([torch.full_like(cosine, 1 - t), torch.full_like(cosine, t)])
    return torch.where(cosine.abs() > nearly_parallel, chord, ends)
