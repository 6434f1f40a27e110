"""An adapter as every serving engine reads it alike: the same ΔW, written without anything that engines interpret."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora.binding import BaseModules
from lora.config import LoraConfig
from lora.errors import LoraError
from lora.layout import PREFIX, Layout, ModuleLayout
from lora.lazy_torch import torch
from lora.serving import ENGINES, needed_zero_pairs, obstacles_to_export
from lora.serving_rules import Engine, served_rank
from lora.weights import AdapterFile, WholeTensor, common_dtype, write_adapter

if TYPE_CHECKING:
    from torch import Tensor

CARRIED = ("task_type", "fan_in_fan_out", "bias", "lora_bias")


class NotExportable(LoraError):
    """No export makes an adapter servable by an engine.

    Args:
        reasons: at least one sentence.
    """

    code = "not_exportable"

    def __init__(self, engine: Engine, reasons: list[str]) -> None:
        self.reasons = reasons
        super().__init__(f"No export helps {ENGINES[engine]}: {' '.join(reasons)}")


def export_adapter(
    weights: Path,
    layout: Layout,
    config: LoraConfig,
    engine: Engine,
    folder: Path,
    *,
    base: BaseModules | None,
    base_model: str | None,
    metadata: Mapping[str, str],
) -> None:
    """Write config and weights of an adapter for an engine; one module at a time is in memory.

    The scaling is folded into B (alpha = r), every module is padded with zeros to one rank that is 8 or a multiple of
    16, targets are the paths of the modules, and the modules that the engine needs beside them are added as zeros. So
    ΔW stays what it is, up to one rounding of B in the file's dtype, and none at all where every scaling is a power
    of two. Heads and biases come along for the engines that read them. Equal inputs give equal bytes.

    Args:
        weights: the safetensors file that `layout` was read from.
        folder: existing and writable.
        base: path → (d_out, d_in) of the base's modules; None where it is not known.
        base_model: the name that the engine serves the base under; None leaves the config's.
        metadata: strings for the header of the weights, such as the source.
    Raises:
        NotExportable: see `obstacles_to_export`.
        LoraError: a scaled value does not fit the file's dtype.
    """
    if obstacles := obstacles_to_export(config, layout, engine, base):
        raise NotExportable(engine, obstacles)
    zeros = {path: shape for path, shape in needed_zero_pairs(layout, engine, base).items() if shape is not None}
    modules = sorted((*layout.modules.values(), *_zero_modules(zeros)), key=lambda module: module.path)
    rank = served_rank(max(module.rank for module in modules))
    with AdapterFile(weights, layout) as file:
        write_adapter(
            folder,
            modules,
            _factors(file, modules),
            rank=rank,
            dtype=common_dtype([file]),
            config=_config(config, layout, base_model),
            metadata=metadata,
            whole=list(_whole(file)),
        )


def _zero_modules(zeros: Mapping[str, tuple[int, int]]) -> Iterator[ModuleLayout]:
    for path, (d_out, d_in) in zeros.items():
        yield ModuleLayout(path, "linear", "", "", rank=1, d_in=d_in, d_out=d_out, scaling=1.0)


def _factors(file: AdapterFile, modules: list[ModuleLayout]) -> Iterator[tuple[Tensor, Tensor]]:
    for module in modules:
        if module.path in file.layout.modules:
            factors = file.factors(module.path, torch.float64)
            yield factors.A, factors.B * factors.scaling
        else:
            yield torch.zeros(1, module.d_in), torch.zeros(module.d_out, 1)


def _whole(file: AdapterFile) -> Iterator[WholeTensor]:
    """Yield the biases of the factors, scaled as B is, and the whole weights but for copies of the base's own."""
    for module in file.layout.modules.values():
        if module.bias_name:
            bias = file.tensor(module.bias_name).double() * module.scaling
            name = f"{PREFIX}{module.path}.lora_B.bias"
            yield WholeTensor(name, "F32", (module.d_out,), bias.float().reshape(-1).clone)
    for name in sorted(file.layout.extra):
        if ".base_layer." not in name or name.endswith(".bias"):
            yield file.whole(name)


def _config(config: LoraConfig, layout: Layout, base_model: str | None) -> dict[str, Any]:
    carried: dict[str, Any] = {key: getattr(config, key) for key in CARRIED}
    return carried | {
        "base_model_name_or_path": base_model or config.base_model,
        "modules_to_save": list(config.modules_to_save) or None,
    }
