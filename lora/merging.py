"""The merge engine: a recipe over adapter files in, one adapter and a report out, module by module."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lora import VERSION
from lora.base import Base
from lora.dora import dora_warning, is_dora, to_plain
from lora.errors import LoraError
from lora.lazy_torch import torch
from lora.merge_lock import lock_warnings_from_base, lock_warnings_from_norms, trap_warnings
from lora.merge_report import Measurements, MergeReport, merge_report
from lora.mergeable import check_fit, check_mergeable
from lora.merges import MERGES, Merged, Module
from lora.recipe import MergeInput, OutputSpec, check_rank_mode, known_rank, resolve_weights
from lora.runtime.adapted import AdaptedModel
from lora.runtime.probe import Probe, RunningBase
from lora.spool import Spool
from lora.weights import AdapterFile, Factors, common_dtype, write_adapter
from lora.whole import Coefficients, coefficients
from lora.whole_merge import merge_whole

if TYPE_CHECKING:
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
    parsed, weights, summed = _checked(method, params, inputs, output, base)
    bound = known_rank(output, inputs)
    dtype = output.dtype or widest_dtype(inputs)
    with ExitStack() as stack:
        plain, noted = _plain_inputs(inputs, base, bound, folder, stack)
        modules = stack.enter_context(FileModules(plain, weights, bound, cancelled, device))
        modules.probe = _probe(method, running, modules, plain, stack)
        noted += _signs_of_locks(plain, base, modules.probe, parsed)
        whole = merge_whole(plain, modules.files, summed, base, dtype)
        spool = Spool(stack.enter_context(tempfile.TemporaryFile(dir=folder)))
        measured = _spooled(MERGES.get(method).run(modules, parsed), modules, spool, progress)
        rank = bound or spool.needed_rank(output)
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


def _checked(
    method: str, params: dict[str, Any], inputs: Sequence[MergeInput], output: OutputSpec, base: Base | None
) -> tuple[Any, list[float], Coefficients | None]:
    """Return the parameters, the weights as applied and, of a weighted sum, its coefficients. Raises: as `merge`."""
    parsed = MERGES.parse(method, params)
    check_mergeable(inputs, base_at_hand=base is not None)
    weights = resolve_weights(method, [item.weight for item in inputs])
    summed = coefficients(MERGES.get(method).traits, parsed, weights)
    check_fit(method, inputs, summed, base_at_hand=base is not None)
    check_rank_mode(method, output)
    return parsed, weights, summed


def widest_dtype(inputs: Sequence[MergeInput]) -> str:
    """Return the dtype of an output that names none."""
    with ExitStack() as stack:
        return common_dtype([stack.enter_context(AdapterFile(item.weights_path, item.layout)) for item in inputs])


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


def _probe(
    method: str, running: RunningBase | None, modules: FileModules, inputs: Sequence[MergeInput], stack: ExitStack
) -> Probe | None:
    """Return the base with the inputs on top for as long as `stack` is open, where the method runs it."""
    if running is None or "base_model" not in MERGES.get(method).needs:
        return None
    adapted = stack.enter_context(AdaptedModel(running.model, modules.files))
    return Probe(running, adapted, inputs, modules.weights, modules.check_wanted)


def _signs_of_locks(
    inputs: Sequence[MergeInput], base: Base | None, probe: Probe | None, params: Any
) -> Iterator[dict[str, str]]:
    """Yield what the base, as far as it is at hand, tells of inputs that were made against merging."""
    if base is not None:
        yield from lock_warnings_from_base(inputs, base)
    if probe is not None:
        yield from trap_warnings(probe, params.prompt)


def _spooled(
    merged: Iterator[tuple[Module, Merged]], modules: FileModules, spool: Spool, progress: Callable[[float], None]
) -> Measurements:
    """Put what a method yields into the spool, at the rank of the file where it is known, and measure it."""
    measured = Measurements(modules.n)
    for module, change in merged:
        measured.add(module, spool.add(module, change, modules.rank))
        progress(0.95 * len(spool.layouts) / len(modules))
    modules.check_complete(spool.layouts)
    return measured


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
        self.weights = weights
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
            weights = tuple(self.weights[i] for i in owners)
            digests = tuple(self._digests[i] for i in owners)
            yield Module(self._layouts[path], owners, deltas, weights, digests)

    def _factors(self, i: int, path: str) -> Factors:
        stored = self.files[i].factors(path, torch.float64)
        return Factors(stored.A.to(self._device), stored.B.to(self._device), stored.scaling)


def _inherited_config(inputs: Sequence[MergeInput]) -> dict[str, Any]:
    configs = [item.config for item in inputs]
    tasks = {config.task_type for config in configs}
    return {
        "base_model_name_or_path": next((c.base_model for c in configs if c.base_model), None),
        "fan_in_fan_out": configs[0].fan_in_fan_out,
        "task_type": tasks.pop() if len(tasks) == 1 else None,
    }
