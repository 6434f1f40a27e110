"""What experts need in order to be routed between inside one model, and adapters that one loader takes together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora.binding import BaseModules, listed
from lora.errors import InputProblem, NotMergeable
from lora.layout import ModuleLayout
from lora.lazy_torch import torch
from lora.mergeable import check_mergeable
from lora.recipe import MergeInput
from lora.serving import judge
from lora.weights import AdapterFile, common_dtype, write_adapter

if TYPE_CHECKING:
    from torch import Tensor


def problems_of(items: Sequence[MergeInput]) -> list[InputProblem]:
    """Return why experts cannot be routed between inside one model, decided by their headers: at most one per expert.

    All that routing adds is a mix of s·B·A·x of linear layers, so that an adapter must be just that.
    """
    found: dict[int, InputProblem] = {}
    try:
        check_mergeable(items)
    except NotMergeable as error:
        for problem in error.inputs:
            found.setdefault(problem.index, problem)
    for index, item in enumerate(items):
        if index not in found and (reason := _not_only_linear(item)):
            found[index] = InputProblem(index, *reason)
    return [found[index] for index in sorted(found)]


def _not_only_linear(item: MergeInput) -> tuple[str, str] | None:
    others = [module.path for module in item.layout.modules.values() if module.kind != "linear"]
    if others:
        return "not_linear", f"{item.name} adapts {listed(others, 2)}; inside the model only linear layers are routed."
    whole = sorted(name for name in item.layout.extra if ".base_layer." not in name or name.endswith(".bias"))
    whole += [module.bias_name for module in item.layout.modules.values() if module.bias_name]
    if whole:
        text = f"{item.name} holds more than LoRA factors ({listed(whole, 2)}), which a token cannot choose or leave."
        return "whole_weights", text
    return None


def is_uniform(items: Sequence[MergeInput], base: BaseModules | None) -> bool:
    """Return whether PEFT takes the adapters together as they are: one rank, the same modules, its own names.

    Args:
        base: path → (d_out, d_in) of the base's modules; None where it is not known.
    """
    paths, rank = set(items[0].layout.modules), items[0].config.r
    return set(all_modules(items, base)) == paths and all(
        set(item.layout.modules) == paths
        and {module.rank for module in item.layout.modules.values()} == {rank} == {item.config.r}
        and reads_alike(item, base)
        for item in items
    )


def reads_alike(item: MergeInput, base: BaseModules | None) -> bool:
    """Return whether PEFT reads an adapter's files as they are."""
    return judge(item.config, item.layout, base)["peft"].verdict == "yes"


def all_modules(items: Sequence[MergeInput], base: BaseModules | None) -> dict[str, tuple[int, int]]:
    """Return path → (d_out, d_in) of every module that an expert adapts, and of those of the base called alike.

    PEFT's Arrow puts its router on every module with the name of an adapted one, and has to find all experts there.
    """
    found = {m.path: (m.d_out, m.d_in) for item in items for m in item.layout.modules.values()}
    if base is not None and found.keys() <= base.keys():
        leaves = {path.rsplit(".", 1)[-1] for path in found}
        found |= {path: shape for path, shape in base.items() if path.rsplit(".", 1)[-1] in leaves}
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class Shape:
    """What adapters are written as: path → (d_out, d_in) of their modules, and one rank, at least every expert's."""

    modules: Mapping[str, tuple[int, int]]
    rank: int


def write_uniform(item: MergeInput, folder: Path, shape: Shape, metadata: Mapping[str, str]) -> None:
    """Write an adapter with one rank on all modules of a shape: zeros beyond its own rank and where it has nothing.

    The scaling is folded into B. One module at a time is in memory, and equal inputs give equal bytes.

    Args:
        folder: existing and writable.
        metadata: strings for the header of the weights, such as the source.
    Raises: LoraError: a scaled value does not fit the file's dtype.
    """
    layouts = [
        ModuleLayout(path, "linear", "", "", rank=shape.rank, d_in=d_in, d_out=d_out, scaling=1.0)
        for path, (d_out, d_in) in shape.modules.items()
    ]
    with AdapterFile(item.weights_path, item.layout) as file:
        write_adapter(
            folder,
            layouts,
            (_factors(file, layout) for layout in layouts),
            rank=shape.rank,
            dtype=common_dtype([file]),
            config={
                "base_model_name_or_path": item.config.base_model,
                "task_type": item.config.task_type,
                "fan_in_fan_out": item.config.fan_in_fan_out,
            },
            metadata=metadata,
        )


def _factors(file: AdapterFile, module: ModuleLayout) -> tuple[Tensor, Tensor]:
    if module.path not in file.layout.modules:
        return torch.zeros(1, module.d_in), torch.zeros(module.d_out, 1)
    found = file.factors(module.path, torch.float64)
    return found.A, found.B * found.scaling
