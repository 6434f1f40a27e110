"""The merge engine: a recipe over adapter files in, one adapter and a report out, module by module."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np

from lora import VERSION
from lora.algebra import Spectrum, low_rank_spectrum, one_thread
from lora.base import Base
from lora.dora import dora_warning, is_dora, to_plain
from lora.elementwise import Elementwise, streamed_spectrum
from lora.errors import LoraError
from lora.lazy_torch import torch
from lora.merge_lock import lock_warnings_from_base, lock_warnings_from_norms
from lora.merge_report import Measurements, MergeReport, merge_report
from lora.mergeable import check_fit, check_mergeable
from lora.merges import MERGES, Merged, Module, Stacked
from lora.recipe import MergeInput, OutputSpec, check_rank_mode, known_rank, resolve_weights
from lora.runtime.adapted import AdaptedModel
from lora.runtime.probe import Probe, RunningBase
from lora.weights import AdapterFile, Factors, common_dtype, write_adapter
from lora.whole import coefficients
from lora.whole_merge import merge_whole

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
DORA_OVERSAMPLE = 2


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
    base: Base | None = None,
    running: RunningBase | None = None,
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
        base: the base's weights; without them DoRA adapters are refused, and biases that do not average out.
        running: the base in memory, for methods that need "base_model"; the report then has `found`, what they found
            out with it, such as `found.weights`.
    Returns: the report, see `lora.merge_report`. The errors are those of the truncation; rounding to the output's dtype
        comes on top. `norm_in` is without weights, and `interference` compares the inputs as they are.
    Raises:
        InvalidParams, UnknownMethod, NotMergeable: the recipe is refused.
        BaseNotHere: the method needs the base in memory.
        MergeCancelled: `cancelled` said so.
    """
    parsed = MERGES.parse(method, params)
    check_mergeable(inputs, base_at_hand=base is not None)
    weights = resolve_weights(method, [item.weight for item in inputs])
    summed = coefficients(MERGES.get(method).traits, parsed, weights)
    check_fit(method, inputs, summed, base_at_hand=base is not None)
    check_rank_mode(method, output)
    bound = known_rank(output, inputs)
    with ExitStack() as stack:
        files = [stack.enter_context(AdapterFile(item.weights_path, item.layout)) for item in inputs]
        dtype = output.dtype or common_dtype(files)
        plain, noted = _plain_inputs(inputs, base, bound, folder, stack)
        noted += lock_warnings_from_base(plain, base) if base is not None else []
        modules = stack.enter_context(FileModules(plain, weights, bound, cancelled, device))
        whole = merge_whole(plain, modules.files, summed, base, dtype)
        spool = _Spool(stack.enter_context(tempfile.TemporaryFile(dir=folder)))
        measured = Measurements(modules.n)
        if running is not None and "base_model" in MERGES.get(method).needs:
            adapted = stack.enter_context(AdaptedModel(running.model, modules.files))
            modules.probe = Probe(running, adapted, plain, weights, modules.check_wanted)
        for module, merged in MERGES.get(method).run(modules, parsed):
            whole_spectrum = _spectrum(merged, bound)
            spectrum = whole_spectrum if bound is None else whole_spectrum.truncate(bound)
            A, B = _side_by_side(merged.terms) if isinstance(merged, Stacked) else (spectrum.A, spectrum.B)
            spool.append(module, A, B, whole_spectrum)
            measured.add(module, spectrum)
            progress(0.95 * len(spool.layouts) / len(modules))
        modules.check_complete(spool.layouts)
        rank = bound or _needed_rank(output, spool)
        write_adapter(
            folder,
            spool.layouts,
            spool.factors(rank),
            rank=rank,
            dtype=dtype,
            config=_inherited_config(inputs) | whole.config,
            metadata=metadata,
            whole=whole.tensors,
        )
    progress(1.0)
    noted += [*whole.warnings, *lock_warnings_from_norms([item.name for item in inputs], measured)]
    report = merge_report(inputs, measured, spool.spectra, rank, noted)
    return report | ({"found": modules.probe.found} if modules.probe else {})


def _plain_inputs(
    inputs: Sequence[MergeInput], base: Base | None, bound: int | None, folder: Path, stack: ExitStack
) -> tuple[list[MergeInput], list[dict[str, str]]]:
    """Return the inputs with DoRA adapters converted to plain ones, and what that lost.

    They get twice the rank of the output, so that what is cut off before the merge is small beside what is cut after.
    """
    plain, warnings = list(inputs), []
    for index, item in enumerate(inputs):
        if base is not None and is_dora(item):
            shapes = item.layout.modules.values()
            wanted = DORA_OVERSAMPLE * (bound or max(module.rank for module in shapes))
            rank = min(wanted, max(min(module.d_in, module.d_out) for module in shapes))
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
            converted = to_plain(item, index, base, rank, scratch)
            plain[index] = converted.item
            warnings.append(dora_warning(converted, rank))
    return plain, warnings


class FileModules:
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
        self.probe: Probe | None = None
        self._digests = [item.digest for item in inputs]
        self.files = [AdapterFile(item.weights_path, item.layout) for item in inputs]
        self._weights = weights
        self._cancelled = cancelled
        self._device = device
        self._stack = ExitStack()
        self._layouts: dict[str, ModuleLayout] = {}
        for item in inputs:
            for path, layout in item.layout.modules.items():
                self._layouts.setdefault(path, layout)

    def __enter__(self) -> Self:
        for file in self.files:
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

    def check_wanted(self) -> None:
        """Raises: MergeCancelled."""
        if self._cancelled():
            raise MergeCancelled("The merge was cancelled.")

    def __iter__(self) -> Iterator[Module]:
        for path in sorted(self._layouts):
            self.check_wanted()
            owners = tuple(i for i, file in enumerate(self.files) if path in file.layout.modules)
            deltas = tuple(self._factors(i, path) for i in owners)
            weights = tuple(self._weights[i] for i in owners)
            digests = tuple(self._digests[i] for i in owners)
            yield Module(self._layouts[path], owners, deltas, weights, digests)

    def _factors(self, i: int, path: str) -> Factors:
        stored = self.files[i].factors(path, torch.float64)
        return Factors(stored.A.to(self._device), stored.B.to(self._device), stored.scaling)


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
    """Return as much of the spectrum as is known without more work than the output's rank asks for."""
    if isinstance(merged, Elementwise):
        return streamed_spectrum(merged, bound)
    with one_thread():
        return low_rank_spectrum(merged.terms if isinstance(merged, Stacked) else merged)


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


def _inherited_config(inputs: Sequence[MergeInput]) -> dict[str, Any]:
    configs = [item.config for item in inputs]
    tasks = {config.task_type for config in configs}
    return {
        "base_model_name_or_path": next((c.base_model for c in configs if c.base_model), None),
        "fan_in_fan_out": configs[0].fan_in_fan_out,
        "task_type": tasks.pop() if len(tasks) == 1 else None,
    }
