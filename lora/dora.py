"""DoRA adapters as plain LoRA, where the base is at hand.

W' = diag(m/‖W₀ + s·B·A‖)·(W₀ + s·B·A), norms by output row, so that ΔW = diag(g − 1)·W₀ + diag(g)·s·B·A with
g = m/‖W₀ + s·B·A‖ is of full rank: it is compressed, and the loss is told. Source: arXiv:2402.09353, section 4; row
orientation as in PEFT's `tuners/lora/dora.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora.algebra import Spectrum
from lora.base import Base
from lora.elementwise import Elementwise, entry_blocks, streamed_spectrum
from lora.errors import InputProblem, NotMergeable
from lora.header import WEIGHTS_NAME, read_header
from lora.layout import ModuleLayout, read_layout
from lora.lazy_torch import torch
from lora.recipe import MergeInput
from lora.weights import AdapterFile, write_adapter

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Converted:
    """A DoRA input as a plain LoRA one, and what that kept: ‖kept‖²/‖ΔW‖² over all modules."""

    item: MergeInput
    energy_kept: float


def is_dora(item: MergeInput) -> bool:
    """Return whether an adapter's change depends on the base's weights."""
    return item.config.use_dora or any(module.magnitude_name for module in item.layout.modules.values())


def to_plain(item: MergeInput, index: int, base: Base, rank: int, folder: Path) -> Converted:
    """Write a DoRA adapter as plain LoRA, float32, into an empty folder; one module at a time is in memory.

    Args:
        rank: at most the highest full rank of its modules.
        index: the input's position in the recipe.
    Raises: NotMergeable: the base lacks a module, or has it in another shape.
    """
    conversion = _Conversion(item, index, base, rank)
    modules = [replace(module, magnitude_name=None) for module in item.layout.modules.values()]
    config = replace(item.config, r=rank, lora_alpha=float(rank), rank_pattern={}, alpha_pattern={},
                     use_dora=False, use_rslora=False)  # fmt: skip
    written_config = {"fan_in_fan_out": config.fan_in_fan_out}
    with AdapterFile(item.weights_path, item.layout) as file:
        whole = [file.whole(name) for name in item.layout.extra]
        write_adapter(
            folder, modules, conversion, rank=rank, dtype="float32", config=written_config, metadata={}, whole=whole
        )
    weights = folder / WEIGHTS_NAME
    with weights.open("rb") as stream:
        layout = read_layout(read_header(stream, weights.stat().st_size), config)
    plain = replace(item, weights_path=weights, layout=layout, config=config)
    return Converted(plain, conversion.kept / conversion.energy if conversion.energy else 1.0)


class _Conversion:
    """The factors of every module in order, once; adds up what they keep."""

    def __init__(self, item: MergeInput, index: int, base: Base, rank: int) -> None:
        self.kept = self.energy = 0.0
        self._item, self._index, self._base, self._rank = item, index, base, rank

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        with AdapterFile(self._item.weights_path, self._item.layout) as file:
            for module in self._item.layout.modules.values():
                spectrum = self._spectrum(file, module).truncate(self._rank)
                self.kept, self.energy = self.kept + spectrum.kept, self.energy + spectrum.energy
                yield spectrum.A.float(), spectrum.B.float()

    def _spectrum(self, file: AdapterFile, module: ModuleLayout) -> Spectrum:
        factors, weight = file.factors(module.path, torch.float64), self._weight(module)
        lengths = torch.cat([(weight[rows] + change[0]).norm(dim=1) for rows, change in entry_blocks([factors])])
        gain = file.tensor(module.magnitude_name or "").float().flatten() / lengths

        def combine(rows: slice, entries: Tensor) -> Tensor:
            return gain[rows, None] * (weight[rows] + entries[0]) - weight[rows]

        return streamed_spectrum(Elementwise([factors], combine), self._rank)

    def _weight(self, module: ModuleLayout) -> Tensor:
        """Return the base's weight, (d_out, d_in) float32."""
        name = self._base.find(module.path, "weight")
        if name is None:
            raise self._refusal(f"the base at hand has no {module.path}")
        weight = self._base.load(name).float()
        if module.kind == "embedding" or self._item.config.fan_in_fan_out:
            weight = weight.T
        weight = weight.flatten(1)
        if tuple(weight.shape) != (module.d_out, module.d_in):
            shape = "x".join(map(str, weight.shape))
            raise self._refusal(f"{module.path} of the base at hand is {shape}, not {module.d_out}x{module.d_in}")
        return weight

    def _refusal(self, reason: str) -> NotMergeable:
        return NotMergeable([InputProblem(self._index, "dora", f"{self._item.name} is a DoRA adapter, and {reason}.")])


def dora_warning(converted: Converted, rank: int) -> dict[str, str]:
    """Return what the conversion of an input lost, as `{code, message}`."""
    lost = math.sqrt(max(0.0, 1 - converted.energy_kept))
    text = (
        f"{converted.item.name} is a DoRA adapter: its change is of full rank, of which rank {rank} keeps "
        f"{converted.energy_kept:.1%} of the energy (relative error {lost:.3g})."
    )
    return {"code": "dora_compressed", "message": text}
