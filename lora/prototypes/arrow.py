"""Arrow: per module, the input direction that an adapter stretches most."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora.algebra import one_thread
from lora.prototypes import PROTOTYPES
from lora.spectra import spectra
from lora.weights import AdapterFile

if TYPE_CHECKING:
    from torch import Tensor

    from lora.layout import Layout


# Above it a power iteration stops short of the first vector, and another input is stretched nearly as much.
AMBIGUOUS = 0.9


def arrow(A: Tensor, B: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """Return the top right singular vector of scaling·B·A and all its singular values.

    Args:
        A: (r, d_in). B: (d_out, r). Any float dtype.
        scaling: s of ΔW = s·B·A; it changes σ, never v.
    Returns: (v (d_in,), sigma (r,)), float32. v has length 1 and its entry of largest magnitude is positive; sigma
        descends. An untrained module (ΔW = 0) has zeros in both.
    Source: Ostapenko et al., arXiv:2405.11157, Arrow prototypes; here without forming B·A and without iterating.
    """
    with one_thread():
        [(V, sigma)] = spectra([(A, B)], directions=1)
        return V[0].float(), (abs(scaling) * sigma).float()


@PROTOTYPES.register(
    "arrow",
    title="Arrow",
    summary="Per module, the unit vector that the weight change stretches most.",
    source="Arrow, arXiv:2405.11157; exact singular vectors instead of power iterations",
    space="module",
)
def arrow_file(path: Path, layout: Layout) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Return the Arrow vectors of an adapter file and what its spectra say about every module.

    Args:
        path: the safetensors file; layout: its layout.
    Returns: ({path: v (d_in,) float32} of the linear modules, and for all modules, by path,
        `{path, rank, d_in, d_out, scaling, norm, sigma, stable_rank}` with norm = ‖ΔW‖_F and
        stable_rank = Σσ²/σ₁², 0 where ΔW = 0).
    """
    vectors, facts = {}, []
    with one_thread(), AdapterFile(path, layout) as file:
        factors = [(found.A, found.B) for found in map(file.factors, file.paths)]
        found = spectra(factors, directions=1)
        for module, (V, unscaled) in zip(layout.modules.values(), found, strict=True):
            if module.kind == "linear":
                vectors[module.path] = V[0].float()
            sigma = abs(module.scaling) * unscaled
            energy, top = float(sigma.square().sum()), float(sigma[0])
            facts.append(
                {
                    "path": module.path,
                    "rank": module.rank,
                    "d_in": module.d_in,
                    "d_out": module.d_out,
                    "scaling": module.scaling,
                    "norm": energy**0.5,
                    "sigma": sigma.tolist(),
                    "stable_rank": energy / top**2 if top else 0.0,
                }
            )
    return vectors, facts


def ambiguous_modules(facts: Iterable[Mapping[str, Any]]) -> int:
    """Return of how many modules one vector says little, because σ₂/σ₁ exceeds `AMBIGUOUS`.

    Args:
        facts: of modules, as `arrow_file` returns them.
    """
    spectra_of = [fact["sigma"] for fact in facts]
    return sum(len(sigma) > 1 and sigma[1] > AMBIGUOUS * sigma[0] for sigma in spectra_of)
