"""The merge engine: a recipe over adapter files in, one adapter and a report out, module by module."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np

from lora import VERSION
from lora.algebra import Spectrum, gram, low_rank_spectrum, one_thread
from lora.elementwise import Elementwise, streamed_spectrum
from lora.errors import LoraError
from lora.lazy_torch import torch
from lora.merge_report import MergeReport, merge_report
from lora.mergeable import check_fit, check_mergeable
from lora.merges import MERGES, Merged, Module, Stacked
from lora.recipe import MergeInput, OutputSpec, check_rank_mode, known_rank, resolve_weights
from lora.weights import AdapterFile, Factors, common_dtype, write_adapter

if TYPE_CHECKING:
    from torch import Tensor

    from lora.layout import ModuleLayout

__all__ = [
    "ENGINE_VERSION",
    "MergeCancelled",
    "MergeInput",
    "OutputSpec",
    "check_mergeable",
    "merge",
    "resolve_weights",
]

ENGINE_VERSION = VERSION  # part of the recipe hash


class MergeCancelled(LoraError):
    """The caller asked the merge to stop."""

    code = "cancelled"


def merge(
    method: str,
    params: dict[str, Any],
    inputs: Sequence[MergeInput],
    output: OutputSpec,
    folder: Path,
    *,
    metadata: dict[str, str],
    progress: Callable[[float], None] = lambda fraction: None,
    cancelled: Callable[[], bool] = lambda: False,
    device: str = "cpu",
) -> MergeReport:
    """Merge adapters into `adapter_model.safetensors` and `adapter_config.json` in a folder.

    One module at a time is in memory; until the rank is known, the factors wait in a temporary file in the folder.
    Equal recipes give equal bytes.

    Args:
        method: a name of `MERGES`; `params` its parameters.
        inputs: in order; a module that an input does not adapt counts as ΔW = 0 there.
        folder: existing and writable; what it holds after an error is of no use.
        metadata: strings for the header of the weights, such as the lineage.
        progress: called with a fraction in [0, 1] after every module.
        cancelled: asked before every module.
        device: where torch computes; every module is moved there, and its result back.
    Returns: `{energy_kept, relative_error, per_module, interference, warnings}`. The errors are those of the
        truncation; rounding to the output's dtype comes on top. `norm_in` is without weights.
        `interference.cosine[i][j]` is the cosine of the whole ΔWᵢ and ΔWⱼ, 0 where one of them is zero.
    Raises:
        InvalidParams, UnknownMethod, NotMergeable: the recipe is refused.
        MergeCancelled: `cancelled` said so.
    """
    run, parsed = MERGES.get(method).run, MERGES.parse(method, params)
    check_mergeable(inputs)
    check_fit(method, inputs)
    check_rank_mode(method, output)
    weights = resolve_weights(method, [item.weight for item in inputs])
    bound = known_rank(output, inputs)
    with (
        _Modules(inputs, weights, bound, cancelled, device) as modules,
        tempfile.TemporaryFile(dir=folder) as file,
    ):
        spool = _Spool(file)
        products: list[Tensor] = []
        for module, merged in run(modules, parsed):
            spectrum = _spectrum(merged, bound)
            A, B = _side_by_side(merged.terms) if isinstance(merged, Stacked) else (spectrum.A, spectrum.B)
            spool.append(module, A, B, spectrum)
            products.append(_gram_of_all(module, modules.n))
            progress(0.95 * len(products) / len(modules))
        modules.check_complete(spool.layouts)
        rank = bound or _needed_rank(output, spool)
        write_adapter(
            folder,
            spool.layouts,
            spool.factors(rank),
            rank=rank,
            dtype=output.dtype or modules.dtype,
            config=_inherited_config(inputs),
            metadata=metadata,
        )
    progress(1.0)
    return merge_report(inputs, spool.layouts, spool.spectra, products, rank)


class _Modules:
    """The modules of a recipe, read from the files anew by every iteration."""

    def __init__(
        self,
        inputs: Sequence[MergeInput],
        weights: Sequence[float],
        rank: int | None,
        cancelled: Callable[[], bool],
        device: str,
    ) -> None:
        self.n = len(inputs)
        self.rank = rank
        self._digests = [item.digest for item in inputs]
        self._files = [AdapterFile(item.weights_path, item.layout) for item in inputs]
        self._weights = weights
        self._cancelled = cancelled
        self._device = device
        self._stack = ExitStack()
        self._layouts: dict[str, ModuleLayout] = {}
        for item in inputs:
            for path, layout in item.layout.modules.items():
                self._layouts.setdefault(path, layout)

    def __enter__(self) -> Self:
        for file in self._files:
            self._stack.enter_context(file)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def __len__(self) -> int:
        return len(self._layouts)

    def check_complete(self, layouts: Sequence[ModuleLayout]) -> None:
        """Check that a method has yielded every module once, in order: no merge is partial without anyone noticing."""
        if [layout.path for layout in layouts] != sorted(self._layouts):
            raise RuntimeError("The merge method did not yield every module once, in the order it got them.")

    def __iter__(self) -> Iterator[Module]:
        for path in sorted(self._layouts):
            if self._cancelled():
                raise MergeCancelled("The merge was cancelled.")
            owners = tuple(i for i, file in enumerate(self._files) if path in file.layout.modules)
            deltas = tuple(self._factors(i, path) for i in owners)
            weights = tuple(self._weights[i] for i in owners)
            digests = tuple(self._digests[i] for i in owners)
            yield Module(self._layouts[path], owners, deltas, weights, digests)

    def _factors(self, i: int, path: str) -> Factors:
        stored = self._files[i].factors(path, torch.float64)
        return Factors(stored.A.to(self._device), stored.B.to(self._device), stored.scaling)

    @property
    def dtype(self) -> str:
        """The narrowest of our output dtypes that holds every input."""
        return common_dtype(self._files)


class _Spool:
    """Merged factors waiting on disk until the common rank is known; their spectra stay in memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self.layouts: list[ModuleLayout] = []
        self.spectra: list[tuple[Tensor, float]] = []  # (σ, ‖ΔW‖²) of every module
        self.ranks: list[int] = []  # of the factors that wait
        self._file = file

    def append(self, module: Module, A: Tensor, B: Tensor, spectrum: Spectrum) -> None:
        """Add the factors A (k, d_in) and B (d_out, k) of a module, and what they are judged by."""
        self.layouts.append(module.layout)
        self.spectra.append((spectrum.sigma.cpu(), spectrum.energy))
        self.ranks.append(A.shape[0])
        for factor in (A, B):
            factor.float().contiguous().cpu().numpy().tofile(self._file)

    def factors(self, rank: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (A (k, d_in), B (d_out, k)) float32 of every module in order, k <= rank."""
        self._file.seek(0)
        for layout, k in zip(self.layouts, self.ranks, strict=True):
            A = np.fromfile(self._file, dtype=np.float32, count=k * layout.d_in).reshape(k, layout.d_in)
            B = np.fromfile(self._file, dtype=np.float32, count=layout.d_out * k).reshape(layout.d_out, k)
            yield torch.from_numpy(A[:rank]), torch.from_numpy(B[:, :rank])


def _spectrum(merged: Merged, bound: int | None) -> Spectrum:
    if isinstance(merged, Elementwise):
        whole = streamed_spectrum(merged, bound)
    else:
        with one_thread():
            whole = low_rank_spectrum(merged.terms if isinstance(merged, Stacked) else merged)
    return whole if bound is None else whole.truncate(bound)


def _side_by_side(terms: Sequence[Factors]) -> tuple[Tensor, Tensor]:
    """Return [s_1·A_1; …] and [B_1 …]: every B is that of its file."""
    return torch.cat([term.A * term.scaling for term in terms]), torch.cat([term.B for term in terms], dim=1)


def _needed_rank(output: OutputSpec, spool: _Spool) -> int:
    """Return the lowest rank that keeps all of every module, or the wanted fraction of its energy."""
    if output.rank_mode == "exact":
        return max(1, *spool.ranks)
    ranks = [1]
    for sigma, energy in spool.spectra:
        wanted = float(output.rank_value or 0) * energy * (1 - 1e-12)  # a rounded sum may end just below
        reached = sigma.square().cumsum(0)
        ranks.append(min(int((reached < wanted).sum()) + 1, len(sigma)))
    return max(ranks)


def _gram_of_all(module: Module, n: int) -> Tensor:
    """Return ⟨ΔWᵢ, ΔWⱼ⟩ of this module over all inputs, zero where one lacks it; (n, n), float64."""
    products = torch.zeros(n, n, dtype=torch.float64)
    owners = torch.tensor(module.inputs)
    with one_thread():
        products[owners[:, None], owners] = gram(module.deltas).cpu()
    return products


def _inherited_config(inputs: Sequence[MergeInput]) -> dict[str, Any]:
    configs = [item.config for item in inputs]
    tasks = {config.task_type for config in configs}
    return {
        "base_model_name_or_path": next((c.base_model for c in configs if c.base_model), None),
        "fan_in_fan_out": configs[0].fan_in_fan_out,
        "task_type": tasks.pop() if len(tasks) == 1 else None,
    }
