"""Adapter files: the factors of a module on the way in, a canonical PEFT adapter on the way out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from safetensors import safe_open

from lora.config import CONFIG_NAME
from lora.errors import LoraError
from lora.header import BITS, WEIGHTS_NAME
from lora.lazy_torch import torch

if TYPE_CHECKING:
    from torch import Tensor

    from lora.layout import Layout, ModuleLayout

SAFETENSORS_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


@dataclass(frozen=True)
class Factors:
    """ΔW = scaling·B·A of one module.

    Attributes:
        A: (r, d_in); conv kernels flattened, d_in = in·∏kernel; embeddings d_in = vocab.
        B: (d_out, r), same dtype as A.
        scaling: alpha/r or alpha/√r, times any weight folded in.
    """

    A: Tensor
    B: Tensor
    scaling: float

    def scaled(self, weight: float) -> Factors:
        """Return weight·ΔW; the tensors are shared."""
        return replace(self, scaling=self.scaling * weight)


@dataclass(frozen=True)
class WholeTensor:
    """A tensor of an adapter's file that is no factor: a bias, a head, rows of the vocabulary.

    Attributes:
        name: in the file that is written.
        dtype: as safetensors spells it.
        load: returns the tensor, of this shape and dtype; called when it is written.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    load: Callable[[], Tensor]


class AdapterFile:
    """The factors of an adapter file, read one module at a time; a context manager.

    Args:
        path: the safetensors file.
        layout: its layout, as `read_layout` returned it.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path = path
        self.layout = layout
        self._stack = ExitStack()
        self._file: Any = None

    def __enter__(self) -> Self:
        self._file = self._stack.enter_context(safe_open(self.path, framework="pt"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file = None
        self._stack.close()

    @property
    def paths(self) -> list[str]:
        """Paths of the adapted modules, sorted."""
        return list(self.layout.modules)

    def factors(self, path: str, dtype: torch.dtype | None = None) -> Factors:
        """Return the factors of one module.

        Args:
            path: one of `paths`.
            dtype: of the returned tensors; None means float32. Where nothing had to be converted they are
                views of the mapped file: never write to them.
        """
        module = self.layout.modules[path]
        wanted = dtype or torch.float32
        A = self._file.get_tensor(module.a_name).flatten(1)
        B = self._file.get_tensor(module.b_name).flatten(1)
        return Factors(A.to(wanted), B.to(wanted), module.scaling)

    def tensor(self, name: str) -> Tensor:
        """Return any tensor by its name in the file; a view of the mapped file: never write to it."""
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def whole(self, name: str) -> WholeTensor:
        """Return a tensor that is no factor as it is, to be written elsewhere while this file is open."""
        info = self.layout.extra[name]
        return WholeTensor(name, info.dtype, info.shape, partial(self.tensor, name))

    @property
    def dtype(self) -> torch.dtype:
        """The narrowest dtype that holds every factor without loss."""
        widest = None
        for module in self.layout.modules.values():
            for name in (module.a_name, module.b_name):
                stored = self._file.get_slice(name)[:0].dtype
                widest = stored if widest is None else torch.promote_types(widest, stored)
        return widest or torch.float32


def common_dtype(files: Sequence[AdapterFile]) -> str:
    """Return the narrowest of our output dtypes that holds every file, which are open; float64 becomes float32."""
    widest = files[0].dtype
    for file in files[1:]:
        widest = torch.promote_types(widest, file.dtype)
    return str(widest).removeprefix("torch.") if widest != torch.float64 else "float32"


def tensor_names(module: ModuleLayout) -> tuple[str, str]:
    """Return the names that PEFT gives to A and B of a module."""
    prefix = f"base_model.model.{module.path}"
    if module.kind == "embedding":
        return f"{prefix}.lora_embedding_A", f"{prefix}.lora_embedding_B"
    return f"{prefix}.lora_A.weight", f"{prefix}.lora_B.weight"


def write_adapter(
    folder: Path,
    modules: Sequence[ModuleLayout],
    factors: Iterable[tuple[Tensor, Tensor]],
    *,
    rank: int,
    dtype: str,
    config: Mapping[str, Any],
    metadata: Mapping[str, str],
    whole: Sequence[WholeTensor] = (),
) -> None:
    """Write a PEFT adapter with one uniform rank and scale 1 that every loader reads alike.

    Equal inputs give equal bytes. The tensors are written one after the other, so that one module at a time is
    in memory.

    Args:
        folder: an existing folder; files of these names are replaced.
        modules: what is adapted; their `rank`, `scaling` and names are not used.
        factors: (A (k, d_in), B (d_out, k)) with k <= rank, one pair per module, in order; scale 1.
        rank: R; narrower factors are padded with zeros.
        dtype: "float32", "bfloat16" or "float16".
        config: what the result inherits: base_model_name_or_path, task_type, fan_in_fan_out, …
        metadata: strings for the header of the weights file.
        whole: what the file holds beside the factors.
    Raises: LoraError: a value is not finite in `dtype`.
    """
    settings = json.dumps(_canonical_config(modules, rank, config), indent=2, sort_keys=True)
    (folder / CONFIG_NAME).write_text(settings + "\n", encoding="utf-8")
    with open(folder / WEIGHTS_NAME, "wb") as stream:
        write_header(stream, _entries(modules, rank, dtype, whole), metadata)
        for module, (A, B) in zip(modules, factors, strict=True):
            a_shape, b_shape = _stored_shapes(module, rank)
            missing = rank - A.shape[0]
            padded_a = torch.nn.functional.pad(A, (0, 0, 0, missing)).reshape(a_shape)
            padded_b = torch.nn.functional.pad(B, (0, missing)).reshape(b_shape)
            for tensor in (padded_a, padded_b):
                stream.write(_tensor_bytes(tensor, dtype, module.path))
        for item in whole:
            stream.write(item.load().contiguous().flatten().view(torch.uint8).numpy().data)


def _stored_shapes(module: ModuleLayout, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of A and B as PEFT stores them."""
    if module.kind == "conv":
        channels = module.d_in // math.prod(module.kernel)
        return (rank, channels, *module.kernel), (module.d_out, rank, *(1 for _ in module.kernel))
    return (rank, module.d_in), (module.d_out, rank)


def _entries(
    modules: Sequence[ModuleLayout], rank: int, dtype: str, whole: Sequence[WholeTensor]
) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yield name, dtype as safetensors spells it, and shape of every tensor, in the order of their bytes."""
    for module in modules:
        for name, shape in zip(tensor_names(module), _stored_shapes(module, rank), strict=True):
            yield name, SAFETENSORS_DTYPES[dtype], shape
    for item in whole:
        yield item.name, item.dtype, item.shape


def write_header(
    stream: BinaryIO, entries: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> None:
    """Write the header of a safetensors file whose tensors follow in this order, without holes.

    Args:
        entries: name, dtype as safetensors spells it, and shape of each.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"} | dict(sorted(metadata.items()))}
    end = 0
    for name, dtype, shape in entries:
        start, end = end, end + math.prod(shape) * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data to 8 bytes
    stream.write(len(text).to_bytes(8, "little") + text)


def _tensor_bytes(tensor: Tensor, dtype: str, path: str) -> memoryview:
    stored = tensor.to(getattr(torch, dtype)).contiguous()
    if not bool(torch.isfinite(stored).all()):
        raise LoraError(f"The factors of {path} do not fit {dtype}; choose a wider dtype for the output.")
    return stored.view(torch.uint8).numpy().data


def _canonical_config(modules: Sequence[ModuleLayout], rank: int, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config that spells out what loaders would otherwise default differently."""
    return {
        "alpha_pattern": {},
        "base_model_name_or_path": None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {},
        "revision": None,
        "target_modules": sorted(module.path for module in modules),
        "task_type": None,
        "use_dora": False,
        "use_rslora": False,
        **config,
    }
