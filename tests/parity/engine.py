"""This engine as the references see it: matrices in, a matrix out, through files and float32 factors of full rank."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lora.masks import uniform
from lora.merging import OutputSpec
from tests.lora.factories import adapter_config, write_files
from tests.lora.raw_files import Array, read_deltas, relative_error
from tests.lora.recipes import merge_input, run_merge

PATH = "layer"
EXACT = OutputSpec("exact")


@dataclass(frozen=True)
class Adapters:
    """Random adapters of one module, of full rank, with a part in common as adapters of one base have it."""

    root: Path
    folders: list[Path]

    @property
    def deltas(self) -> list[torch.Tensor]:
        """ΔW of every adapter, float64, read from its file without the engine."""
        return [torch.from_numpy(read_deltas(folder)[PATH]) for folder in self.folders]

    @property
    def rounded(self) -> list[torch.Tensor]:
        """ΔW rounded to float32, in which the engine compares entries."""
        return [delta.float() for delta in self.deltas]

    def merged(
        self, method: str, weights: Sequence[float] | None = None, output: OutputSpec = EXACT, **params: Any
    ) -> Array:
        """Return ΔW of the merge, as it stands in the file that the engine has written."""
        run_merge(self.root / "out", self.folders, method, params, weights, output)
        return read_deltas(self.root / "out")[PATH]

    def drawn(self, seed: int, i: int) -> torch.Tensor:
        """The numbers that the engine compares with what an entry's probability to be kept is."""
        rows, width = self.deltas[i].shape
        return uniform(seed, merge_input(self.folders[i]).digest, PATH, slice(0, rows), width)


def write_adapters(root: Path, count: int, shape: tuple[int, int], common: float) -> Adapters:
    """Write adapters whose ΔW are independent but for a part of this relative strength."""
    generator = torch.Generator().manual_seed(5)
    shared = torch.randn(shape, generator=generator)
    rank = min(shape)
    config = adapter_config({PATH: shape}, rank, alpha=rank)
    folders = []
    for i in range(count):
        matrix = (1 + 0.3 * i) * (torch.randn(shape, generator=generator) + common * shared)
        U, sigma, Vh = torch.linalg.svd(matrix, full_matrices=False)
        tensors = {
            f"base_model.model.{PATH}.lora_A.weight": (sigma.sqrt()[:, None] * Vh).contiguous(),
            f"base_model.model.{PATH}.lora_B.weight": (U * sigma.sqrt()).contiguous(),
        }
        folders.append(write_files(root / str(i), config, tensors))
    return Adapters(root, folders)


def deviation(ours: Array, theirs: torch.Tensor) -> float:
    """Return ‖ours − theirs‖/‖theirs‖."""
    return relative_error(ours, theirs.double().numpy())
