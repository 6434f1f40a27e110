"""How much of a weight change each rank keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora.lazy_torch import torch

if TYPE_CHECKING:
    from torch import Tensor

ROUNDING = 1e-12  # of energies
DIGITS = 8  # significant ones


class EnergyCurve:
    """What share of ‖ΔW‖², summed over modules, each rank keeps where all are cut to it."""

    def __init__(self) -> None:
        self._by_rank = torch.zeros(0, dtype=torch.float64)  # Σσ² over modules of the k-th directions
        self._total = 0.0
        self._known: int | None = None  # ranks, where the spectrum of a module ends before its energy does

    def add(self, energies: Tensor, total: float | None = None) -> None:
        """Count a module in by its σ², descending; `total` is ‖ΔW‖² where these are not all."""
        self._by_rank = torch.nn.functional.pad(self._by_rank, (0, max(0, len(energies) - len(self._by_rank))))
        self._by_rank[: len(energies)] += energies.cpu()
        counted = float(energies.sum())
        self._total += counted if total is None else total
        if total is not None and total - counted > ROUNDING * total:
            self._known = min(len(energies), len(energies) if self._known is None else self._known)

    @property
    def kept(self) -> list[float]:
        """What the ranks 1, 2, … keep, up to the last that adds anything or is known; [1.0] where there is nothing."""
        if not self._total:
            return [1.0]
        above = int((self._by_rank > self._total * ROUNDING).sum())
        shares = self._by_rank[: max(1, above)][: self._known].cumsum(0) / self._total
        return [float(f"{share:.{DIGITS}g}") for share in shares.clamp(max=1).tolist()]
