"""Merged modules that wait on disk until the rank that all of them share is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING

import numpy as np

from lora.algebra import Spectrum, low_rank_spectrum, one_thread
from lora.elementwise import Elementwise, streamed_spectrum
from lora.lazy_torch import torch
from lora.merges import Merged, Module, Stacked
from lora.recipe import OutputSpec

if TYPE_CHECKING:
    from torch import Tensor

    from lora.layout import ModuleLayout
    from lora.weights import Factors


class Spool:
    """Merged factors in a file; their spectra stay in memory.

    Attributes:
        layouts: of the modules, in the order in which they came.
        spectra: (σ, ‖ΔW‖²) of every module.
        ranks: of the factors that wait.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.layouts: list[ModuleLayout] = []
        self.spectra: list[tuple[Tensor, float]] = []
        self.ranks: list[int] = []
        self._file = file

    def add(self, module: Module, merged: Merged, rank: int | None) -> Spectrum:
        """Write what became of a module, and return its spectrum as far as it is written.

        Args:
            rank: of the output, where it is known; None keeps everything.
        """
        whole = _spectrum(merged, rank)
        spectrum = whole if rank is None else whole.truncate(rank)
        A, B = _side_by_side(merged.terms) if isinstance(merged, Stacked) else (spectrum.A, spectrum.B)
        self.layouts.append(module.layout)
        self.spectra.append((whole.sigma.cpu(), whole.energy))
        self.ranks.append(A.shape[0])
        for factor in (A, B):
            factor.float().contiguous().cpu().numpy().tofile(self._file)
        return spectrum

    def needed_rank(self, output: OutputSpec) -> int:
        """Return the lowest rank that keeps all of every module, or the wanted fraction of its energy."""
        if output.rank_mode == "exact":
            return max(1, *self.ranks)
        ranks = [1]
        for sigma, energy in self.spectra:
            wanted = float(output.rank_value or 0) * energy * (1 - 1e-12)  # a rounded sum may end just below
            reached = sigma.square().cumsum(0)
            ranks.append(min(int((reached < wanted).sum()) + 1, len(sigma)))
        return max(ranks)

    def factors(self, rank: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (A (k, d_in), B (d_out, k)) float32 of every module in order, k <= rank."""
        self._file.seek(0)
        for layout, k in zip(self.layouts, self.ranks, strict=True):
            A = np.fromfile(self._file, dtype=np.float32, count=k * layout.d_in).reshape(k, layout.d_in)
            B = np.fromfile(self._file, dtype=np.float32, count=layout.d_out * k).reshape(layout.d_out, k)
            yield torch.from_numpy(A[:rank]), torch.from_numpy(B[:, :rank])


def _spectrum(merged: Merged, bound: int | None) -> Spectrum:
    """Return as much of the spectrum as is known without more work than the output's rank asks for."""
    if isinstance(merged, Elementwise):
        return streamed_spectrum(merged, bound)
    with one_thread():
        return low_rank_spectrum(merged.terms if isinstance(merged, Stacked) else merged)


def _side_by_side(terms: Sequence[Factors]) -> tuple[Tensor, Tensor]:
    """Return [s_1·A_1; …] and [B_1 …]: every B is that of its file."""
    return torch.cat([term.A * term.scaling for term in terms]), torch.cat([term.B for term in terms], dim=1)
