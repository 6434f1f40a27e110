"""ΔW made entry by entry from several others: row blocks, thresholds and compression, never ΔW as a whole."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from lora.algebra import Spectrum, balanced, numerical_rank, one_thread
from lora.lazy_torch import torch

if TYPE_CHECKING:
    from torch import Tensor

    from lora.weights import Factors

BLOCK_ENTRIES = 2**21  # of all adapters together (8 MB)
PANEL_BLOCKS = 32  # of one result, held at once where row blocks meet each other
EXACT_SIDE = 512  # up to this smaller side an exact decomposition takes no longer than an approximate one
OVERSAMPLE = 16
POWER_ITERATIONS = 2
SEED = 0
HELD_ENTRIES = 2**26  # up to here (256 MB) ΔW is computed once and not for every pass
GRAM_PRECISION = 1e-7  # σ/σ₁ below which float64 products and float32 entries leave only rounding
HALF_BITS = 16  # of a float32, counted in one pass

_Key = TypeVar("_Key")


@dataclass(frozen=True)
class Elementwise:
    """A ΔW made entry by entry from those of n adapters: near full rank, and never held as a whole.

    Attributes:
        deltas: the n low-rank ΔW, equal shapes, float64.
        combine: maps rows and their entries (n, b, d_in), float32, to these rows of the result (b, d_in). It may
            change the entries: every pass makes them anew.
    """

    deltas: Sequence[Factors]
    combine: Callable[[slice, Tensor], Tensor]

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""
        return self.deltas[0].B.shape[0], self.deltas[0].A.shape[1]

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield (rows, (b, d_in) float32) from top to bottom; every call yields the same blocks again."""
        yield from self._computed if math.prod(self.shape) <= HELD_ENTRIES else self._compute()

    @cached_property
    def _computed(self) -> list[tuple[slice, Tensor]]:
        whole = self.deltas[0].A.new_empty(self.shape, dtype=torch.float32)  # small pieces would fragment the memory
        held = []
        for rows, block in self._compute():
            whole[rows] = block
            held.append((rows, whole[rows]))
        return held

    def _compute(self) -> Iterator[tuple[slice, Tensor]]:
        for rows, entries in entry_blocks(self.deltas):
            with one_thread():
                block = self.combine(rows, entries).float()
            yield rows, block


def entry_blocks(deltas: Sequence[Factors]) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, entries (n, b, d_in) float32) of n ΔW of one shape, from top to bottom.

    Products are taken in float64 and rounded once, so that an entry depends neither on the block it falls into nor
    on how ΔW is split into factors: thresholds on entries are then the same in every pass.
    """
    d_out, d_in = deltas[0].B.shape[0], deltas[0].A.shape[1]
    height = _block_height(deltas)
    for start in range(0, d_out, height):
        rows = slice(start, min(start + height, d_out))
        entries = deltas[0].A.new_empty(len(deltas), rows.stop - start, d_in, dtype=torch.float32)
        with one_thread():
            for i, delta in enumerate(deltas):
                entries[i] = (delta.B[rows] * delta.scaling) @ delta.A
        yield rows, entries


def _block_height(deltas: Sequence[Factors]) -> int:
    return max(1, BLOCK_ENTRIES // (deltas[0].A.shape[1] * len(deltas)))


def kth_largest(blocks: Callable[[], Iterable[Tensor]], k: int) -> float:
    """Return the k-th largest magnitude of many entries, exactly, without sorting or holding them.

    Args:
        blocks: yields the entries in blocks of any shape, float32; called twice.
        k: 1 <= k <= number of entries.
    """
    return order_statistics(lambda: ((0, block) for block in blocks()), {0: [k]})[0][0]


@one_thread()
def order_statistics(
    blocks: Callable[[], Iterable[tuple[int, Tensor]]], ranks: Mapping[int, Sequence[int]]
) -> dict[int, list[float]]:
    """Return of several sets of entries the k-th largest magnitudes, exactly, without sorting or holding them.

    The bits of non-negative float32 numbers order like integers: one pass counts the upper halves, a second one
    the lower halves within the bins that hold what is asked for.

    Args:
        blocks: yields (set, entries) in blocks of any shape, float32; called twice.
        ranks: of every set that it yields, each k with 1 <= k <= number of its entries.
    """
    upper = _histograms((key, _bits(block) >> HALF_BITS) for key, block in blocks())
    bins = {key: [_bin_of(upper[key], k) for k in wanted] for key, wanted in ranks.items()}
    lower = _histograms(
        ((key, high), _within(_bits(block), high))
        for key, block in blocks()
        for high in {high for high, _ in bins[key]}
    )
    found: dict[int, list[float]] = {key: [] for key in ranks}
    for key, wanted in ranks.items():
        for k, (high, above) in zip(wanted, bins[key], strict=True):
            low, _ = _bin_of(lower[key, high][1:-1], k - above)
            found[key].append(struct.unpack("<f", struct.pack("<I", high << HALF_BITS | low))[0])
    return found


def _bits(block: Tensor) -> Tensor:
    return block.abs().contiguous().view(torch.int32).flatten()


def _within(bits: Tensor, high: int) -> Tensor:
    """Return 1 + the lower half of those bits whose upper half this is; 0 for smaller ones, 2¹⁶ + 1 for larger."""
    return bits.sub_((high << HALF_BITS) - 1).clamp_(0, 2**HALF_BITS + 1)


def _histograms(blocks: Iterable[tuple[_Key, Tensor]]) -> dict[_Key, Tensor]:
    counts: dict[_Key, Tensor] = {}
    for key, numbers in blocks:
        counted = torch.bincount(numbers, minlength=2**HALF_BITS + 2)
        counts[key] = counts[key].add_(counted) if key in counts else counted
    return counts


def _bin_of(counts: Tensor, k: int) -> tuple[int, int]:
    """Return the k-th largest of the numbers counted, and how many are larger than it."""
    reached = counts.flip(0).cumsum(0)
    from_top = int(torch.searchsorted(reached, k))
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
        with one_thread():
            return _randomized_spectrum(delta, rank)
    return _gram_spectrum(delta)


def _randomized_spectrum(delta: Elementwise, rank: int) -> Spectrum:
    """Find the range in float32, which only steers, and project on it in float64.

    A power iteration takes one pass over the blocks, ΔWᵀ(ΔW·X) block by block.
    """
    d_out, d_in = delta.shape
    like = delta.deltas[0].A
    generator = torch.Generator().manual_seed(SEED)
    right = torch.randn(d_in, rank + OVERSAMPLE, generator=generator, dtype=torch.float64, device="cpu").to(like.device)
    energy = 0.0
    for step in range(POWER_ITERATIONS):
        start, right = right.float(), torch.zeros_like(right)
        for _, block in delta.blocks():
            right += block.T @ (block @ start)
            if step == 0:
                energy += float(torch.linalg.vector_norm(block, dtype=torch.float64)) ** 2
        right = torch.linalg.qr(right).Q
    start = right.float()
    left = torch.linalg.qr(torch.cat([block @ start for _, block in delta.blocks()]).double()).Q
    projected = torch.zeros_like(right)  # ΔWᵀ·left
    for rows, block in delta.blocks():
        projected += block.double().T @ left[rows]
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
        projected = torch.cat([block.double() @ basis for _, block in delta.blocks()])
        return balanced(projected / sigma, sigma, basis.T, energy)
    projected = moments.new_zeros(len(sigma), d_in)
    for rows, block in delta.blocks():
        projected += basis[rows].T @ block.double()
    return balanced(basis, sigma, projected / sigma[:, None], energy)


def _right_moments(delta: Elementwise) -> Tensor:
    """Return ΔWᵀΔW, (d_in, d_in)."""
    moments = delta.deltas[0].A.new_zeros(delta.shape[1], delta.shape[1])
    for _, block in delta.blocks():
        wide = block.double()
        moments.addmm_(wide.T, wide)
    return moments


def _left_moments(delta: Elementwise) -> Tensor:
    """Return ΔWΔWᵀ, (d_out, d_out): for every panel of row blocks, two passes over all of them."""
    d_out = delta.shape[0]
    moments = delta.deltas[0].A.new_zeros(d_out, d_out)
    height = PANEL_BLOCKS * _block_height(delta.deltas)
    for start in range(0, d_out, height):
        held = slice(start, start + height)
        panel = torch.cat([block for rows, block in delta.blocks() if held.start <= rows.start < held.stop]).double()
        for rows, block in delta.blocks():
            moments[rows, held] = block.double() @ panel.T
    return moments
