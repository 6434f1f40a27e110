"""ΔW made entry by entry from several others: row blocks, thresholds and compression, never ΔW as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from lora.algebra import Spectrum, balanced, numerical_rank
from lora.lazy_torch import torch

if TYPE_CHECKING:
    from torch import Tensor

    from lora.weights import Factors

BLOCK_ENTRIES = 2**20  # of one adapter (8 MB in float64)
PANEL_BLOCKS = 16  # held at once where row blocks meet each other
EXACT_SIDE = 512  # up to this smaller side an exact decomposition takes no longer than an approximate one
OVERSAMPLE = 16
POWER_ITERATIONS = 2
SEED = 0
HELD_ENTRIES = 2**26  # up to here (256 MB) ΔW is computed once and not for every pass
GRAM_PRECISION = 1e-7  # σ/σ₁ below which float64 products and float32 entries leave only rounding


@dataclass(frozen=True)
class Elementwise:
    """A ΔW made entry by entry from those of n adapters: near full rank, and never held as a whole.

    Attributes:
        deltas: the n low-rank ΔW, equal shapes, float64, weights folded in.
        combine: maps rows and their entries (n, b, d_in), float32, to these rows of the result (b, d_in).
    """

    deltas: Sequence[Factors]
    combine: Callable[[slice, Tensor], Tensor]

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""
        return self.deltas[0].B.shape[0], self.deltas[0].A.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the factors are, and with them all that is computed."""
        return self.deltas[0].B.device

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield (rows, (b, d_in) float64) from top to bottom; every call yields the same blocks again."""
        for rows, block in self._computed if math.prod(self.shape) <= HELD_ENTRIES else self._compute():
            yield rows, block.double()

    @cached_property
    def _computed(self) -> list[tuple[slice, Tensor]]:
        return list(self._compute())

    def _compute(self) -> Iterator[tuple[slice, Tensor]]:
        for rows, entries in entry_blocks(self.deltas):
            yield rows, self.combine(rows, entries).float()


def entry_blocks(deltas: Sequence[Factors]) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, entries (n, b, d_in) float32) of n ΔW of one shape, from top to bottom.

    Products are taken in float64 and rounded once, so that an entry depends neither on the block it falls into nor
    on how ΔW is split into factors: thresholds on entries are then the same in every pass.
    """
    d_out, d_in = deltas[0].B.shape[0], deltas[0].A.shape[1]
    height = _block_height(d_in)
    for start in range(0, d_out, height):
        rows = slice(start, min(start + height, d_out))
        yield rows, torch.stack([((d.B[rows] * d.scaling) @ d.A).float() for d in deltas])


def _block_height(d_in: int) -> int:
    return max(1, BLOCK_ENTRIES // d_in)


def kth_largest(blocks: Callable[[], Iterable[Tensor]], k: int) -> float:
    """Return the k-th largest magnitude of many entries, exactly, without sorting or holding them.

    The bits of non-negative float32 numbers order like integers: one pass counts the upper halves, a second one
    the lower halves within the bin that holds the k-th.

    Args:
        blocks: yields the entries in blocks of any shape, float32; called twice.
        k: 1 <= k <= number of entries.
    """
    high, above = _bin_of((_bits(block) >> 16 for block in blocks()), k)
    low, _ = _bin_of((bits[bits >> 16 == high] & 0xFFFF for bits in map(_bits, blocks())), k - above)
    return float(np.int32(high << 16 | low).view(np.float32))


def _bits(block: Tensor) -> Tensor:
    return block.abs().contiguous().view(torch.int32).flatten()


def _bin_of(blocks: Iterable[Tensor], k: int) -> tuple[int, int]:
    """Return the k-th largest of many 16-bit numbers, and how many are larger than it."""
    counts = np.zeros(2**16, dtype=np.int64)
    for block in blocks:
        counts += torch.bincount(block, minlength=2**16).cpu().numpy()
    reached = counts[::-1].cumsum()
    from_top = int(np.searchsorted(reached, k))
    return len(counts) - 1 - from_top, int(reached[from_top - 1]) if from_top else 0


def streamed_spectrum(delta: Elementwise, rank: int | None) -> Spectrum:
    """Return the spectrum of an elementwise ΔW, by row blocks.

    Args:
        delta: what to decompose.
        rank: how many directions are wanted; None means all of them. Of a large module, a few wanted ones come from
            a randomized range finder (fixed seed, error within about 1 % of the best), else from an exact
            decomposition.
    Source: Halko, Martinsson & Tropp, arXiv:0909.4061, algorithms 4.4 and 5.1.
    """
    smaller = min(delta.shape)
    if rank is not None and smaller > EXACT_SIDE and rank + OVERSAMPLE < smaller // 2:
        return _randomized_spectrum(delta, rank)
    return _gram_spectrum(delta)


def _randomized_spectrum(delta: Elementwise, rank: int) -> Spectrum:
    d_out, d_in = delta.shape
    generator = torch.Generator().manual_seed(SEED)
    drawn = torch.randn(d_in, rank + OVERSAMPLE, generator=generator, dtype=torch.float64, device="cpu")
    right = drawn.to(delta.device)
    energy = 0.0
    for _ in range(POWER_ITERATIONS + 1):
        left = right.new_empty(d_out, right.shape[1])
        for rows, block in delta.blocks():
            left[rows] = block @ right
        left = torch.linalg.qr(left).Q
        right = left.new_zeros(d_in, left.shape[1])
        energy = 0.0
        for rows, block in delta.blocks():
            right += block.T @ left[rows]
            energy += float(block.square().sum())
        projected = right  # ΔWᵀ·left: of the last round, not orthonormal
        right = torch.linalg.qr(projected).Q
    U, sigma, Vh = torch.linalg.svd(projected.T, full_matrices=False)
    kept = numerical_rank(sigma[:rank], max(d_out, d_in))
    return balanced(left @ U[:, :kept], sigma[:kept], Vh[:kept], energy)


def _gram_spectrum(delta: Elementwise) -> Spectrum:
    """Decompose through the smaller of ΔWᵀΔW and ΔWΔWᵀ."""
    d_out, d_in = delta.shape
    tall = d_out >= d_in
    moments = _right_moments(delta) if tall else _left_moments(delta)
    values, vectors = torch.linalg.eigh(moments)
    sigma = values.flip(0).clamp_min(0).sqrt()
    sigma = sigma[sigma > GRAM_PRECISION * sigma[0]]
    basis = vectors.flip(1)[:, : len(sigma)]  # (min(d_out, d_in), k): right singular vectors if tall, else left
    energy = float(moments.diagonal().sum())
    if tall:
        projected = torch.cat([block @ basis for _, block in delta.blocks()])
        return balanced(projected / sigma, sigma, basis.T, energy)
    projected = sigma.new_zeros(len(sigma), d_in)
    for rows, block in delta.blocks():
        projected += basis[rows].T @ block
    return balanced(basis, sigma, projected / sigma[:, None], energy)


def _right_moments(delta: Elementwise) -> Tensor:
    """Return ΔWᵀΔW, (d_in, d_in)."""
    moments = torch.zeros(delta.shape[1], delta.shape[1], dtype=torch.float64, device=delta.device)
    for _, block in delta.blocks():
        moments.addmm_(block.T, block)
    return moments


def _left_moments(delta: Elementwise) -> Tensor:
    """Return ΔWΔWᵀ, (d_out, d_out): for every panel of row blocks, two passes over all of them."""
    d_out, d_in = delta.shape
    moments = torch.zeros(d_out, d_out, dtype=torch.float64, device=delta.device)
    height = PANEL_BLOCKS * _block_height(d_in)
    for start in range(0, d_out, height):
        held = slice(start, start + height)
        wanted = [block for rows, block in delta.blocks() if held.start <= rows.start < held.stop]
        panel = torch.cat(wanted)
        for rows, block in delta.blocks():
            moments[rows, held] = block @ panel.T
    return moments
