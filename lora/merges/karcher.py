"""Karcher mean: the point on the sphere that is nearest to all directions, at their mean norm."""

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

NO_DIRECTION = 1e-7  # the mean of unit vectors below which they cancel: rounding of their inner products


@dataclass(frozen=True)
class KarcherParams:
    """Parameters of `karcher`."""

    max_iter: int = param(10, "steps at most", minimum=1, maximum=1000)
    tol: float = param(1e-5, "length in radians of a step after which no more are taken", above=0, maximum=1)


@MERGES.register(
    "karcher",
    params=KarcherParams,
    title="Karcher mean",
    summary="Takes the direction with the least squared angles to those of all inputs, and their mean norm, module "
    "by module: SLERP for any number of inputs.",
    source="Karcher, Riemannian center of mass, 1977; mergekit, karcher; here on ΔW",
    weights="relative",
    family="linear",
    when="As multislerp; it differs where the angles between the adapters do.",
    lacks=("zero_adapter",),
)
def karcher(modules: Modules, params: KarcherParams) -> Iterator[tuple[Module, Merged]]:
    """Yield u·Σaᵢ‖ΔWᵢ‖, where u minimises Σaᵢ·∠(u, ±ΔWᵢ)² and aᵢ = |wᵢ|/Σ|w|.

    u ← exp_u(Σaᵢ·log_u(uᵢ)) from the mean of the uᵢ on; all steps are taken on coefficients of the uᵢ, through their
    inner products. Where the directions cancel there is no u, and the result is Σaᵢ·(±ΔWᵢ). A ΔW of zero has no
    direction, but counts in the mean norm.
    """
    for module in modules:
        with one_thread():
            products = gram(module.weighted)
            norms = products.diagonal().clamp_min(0).sqrt()  # |ŵᵢ|·‖ΔWᵢ‖ = n·aᵢ·‖ΔWᵢ‖
            shares = norms.new_tensor(module.weights).abs() * (norms > 0)
            mean = _mean_direction(cosines(products), shares / shares.sum().clamp_min(1e-300), params)
        if mean is None:
            factor = torch.full_like(norms, 1 / modules.n)
        else:
            factor = torch.where(norms > 0, mean / norms, 0) * float(norms.sum()) / modules.n
        yield module, [delta.scaled(c) for delta, c in zip(module.weighted, factor.tolist(), strict=True)]


def _mean_direction(products: Tensor, shares: Tensor, params: KarcherParams) -> Tensor | None:
    """Return the Karcher mean of unit vectors as coefficients (n,) of them; None where they cancel.

    Args:
        products: their inner products (n, n), 0 for a vector that has no direction; `shares` (n,) sum to 1.
    """
    mean = shares
    length = _norm(mean, products)
    if length < NO_DIRECTION:
        return None
    mean = mean / length
    for _ in range(params.max_iter):
        cosine = (products @ mean).clamp(-1, 1)
        theta = cosine.arccos()
        known = theta.sin() > params.tol  # at the mean itself, or opposite to it, there is no way to go
        pull = torch.where(known, shares * theta / theta.sin(), 0)
        step = pull - (pull @ cosine) * mean
        length = _norm(step, products)
        if length < params.tol:
            break
        mean = length.cos() * mean + length.sin() / length * step
        mean = mean / _norm(mean, products)
    return mean


def _norm(coefficients: Tensor, products: Tensor) -> Tensor:
    return (coefficients @ products @ coefficients).clamp_min(0).sqrt()
