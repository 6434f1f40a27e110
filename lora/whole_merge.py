"""Merging what adapters hold beside ΔW: added up, copied, or left out with a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from lora.base import Base
from lora.binding import listed
from lora.errors import InputProblem, NotMergeable
from lora.layout import PREFIX
from lora.lazy_torch import torch
from lora.recipe import MergeInput
from lora.weights import SAFETENSORS_DTYPES, AdapterFile, WholeTensor
from lora.whole import (
    SUM_TOLERANCE,
    Coefficients,
    base_biases,
    has_lora_bias,
    head_modules,
    is_vocabulary,
    saved_names,
    token_layer,
    trained_tokens,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class WholeMerge:
    """What a merged adapter holds beside its factors: tensors, entries of its config, and what to say of it."""

    tensors: list[WholeTensor] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    warnings: list[dict[str, str]] = field(default_factory=list)


def merge_whole(
    inputs: Sequence[MergeInput],
    files: Sequence[AdapterFile],
    coefficients: Coefficients | None,
    base: Base | None,
    dtype: str,
) -> WholeMerge:
    """Merge what `check_biases` and `check_vocabularies` let pass.

    Args:
        files: of the inputs, open; they are read again when the tensors are written.
        dtype: of the output.
    Raises: NotMergeable: vocabularies of one shape differ.
    """
    merged = WholeMerge()
    if coefficients is not None:
        _add_lora_biases(merged, inputs, files, coefficients, dtype)
        _add_base_biases(merged, inputs, files, coefficients, base, dtype)
    _copy_vocabulary(merged, inputs, files)
    _join_tokens(merged, inputs, files)
    _copy_heads(merged, inputs, files)
    return merged


def _add_lora_biases(
    merged: WholeMerge,
    inputs: Sequence[MergeInput],
    files: Sequence[AdapterFile],
    coefficients: Coefficients,
    dtype: str,
) -> None:
    """Σ cᵢ·sᵢ·biasᵢ. PEFT gives every module a bias where one has it, so that the others get zeros."""
    if not any(map(has_lora_bias, inputs)):
        return
    merged.config["lora_bias"] = True
    shapes = {path: module.d_out for item in inputs for path, module in item.layout.modules.items()}
    for path, d_out in sorted(shapes.items()):
        terms = [
            (c * file.layout.modules[path].scaling, file, name)
            for c, file in zip(coefficients, files, strict=True)
            if path in file.layout.modules and (name := file.layout.modules[path].bias_name)
        ]
        name, load = f"{PREFIX}{path}.lora_B.bias", partial(_sum, terms, d_out, dtype)
        merged.tensors.append(WholeTensor(name, SAFETENSORS_DTYPES[dtype], (d_out,), load))


def _add_base_biases(
    merged: WholeMerge,
    inputs: Sequence[MergeInput],
    files: Sequence[AdapterFile],
    coefficients: Coefficients,
    base: Base | None,
    dtype: str,
) -> None:
    modules = {path for item in inputs for path in item.layout.modules}
    found = [base_biases(item) for item in inputs]
    for path in sorted({path for names in found for path in names}):
        holders = [
            (c, file, names[path]) for c, file, names in zip(coefficients, files, found, strict=True) if path in names
        ]
        terms: list[tuple[float, AdapterFile | Base, str]] = list(holders)
        rest = 1 - sum(c for c, _, _ in holders)
        if abs(rest) > SUM_TOLERANCE and base is not None:
            terms.append((rest, base, _bias_in(base, path, inputs)))
        shape = holders[0][1].layout.extra[holders[0][2]].shape
        stored = f"{PREFIX}{path}{'.base_layer' if path in modules else ''}.bias"
        load = partial(_sum, terms, shape[0], dtype)
        merged.tensors.append(WholeTensor(stored, SAFETENSORS_DTYPES[dtype], shape, load))
    kinds = {item.config.bias for item, names in zip(inputs, found, strict=True) if names}
    if kinds:
        merged.config["bias"] = "all" if "all" in kinds else "lora_only"


def _bias_in(base: Base, path: str, inputs: Sequence[MergeInput]) -> str:
    name = base.find(path, "bias")
    if name is None:
        index = next(index for index, item in enumerate(inputs) if path in base_biases(item))
        text = f"{inputs[index].name} replaces the bias of {path}, of which the base at hand has none."
        raise NotMergeable([InputProblem(index, "trained_bias", text)])
    return name


def _sum(terms: Sequence[tuple[float, AdapterFile | Base, str]], size: int, dtype: str) -> Tensor:
    total = torch.zeros(size, dtype=torch.float64)
    for coefficient, source, name in terms:
        stored = source.tensor(name) if isinstance(source, AdapterFile) else source.load(name)
        total += coefficient * stored.double().flatten()
    return total.to(getattr(torch, dtype))


def _copy_vocabulary(merged: WholeMerge, inputs: Sequence[MergeInput], files: Sequence[AdapterFile]) -> None:
    saved: set[str] = set()
    for name in sorted(name for name in inputs[0].layout.extra if is_vocabulary(name)):
        unequal = [i for i, file in enumerate(files) if not torch.equal(files[0].tensor(name), file.tensor(name))]
        if unequal:
            text = (
                f"{inputs[unequal[0]].name} and {inputs[0].name} bring different {name}; only equal ones can be kept."
            )
            raise NotMergeable([InputProblem(unequal[0], "trained_vocabulary", text)])
        merged.tensors.append(files[0].whole(name))
        saved |= saved_names(inputs[0], name.removeprefix(PREFIX).rpartition(".")[0])
    _save(merged, saved)


def _join_tokens(merged: WholeMerge, inputs: Sequence[MergeInput], files: Sequence[AdapterFile]) -> None:
    """The rows of all inputs one below the other: rows are absolute, and the ids are disjoint."""
    found = [trained_tokens(item) for item in inputs]
    for name in sorted({name for tokens in found for name in tokens}):
        holders = [i for i, tokens in enumerate(found) if name in tokens]
        infos = [files[i].layout.extra[name] for i in holders]
        shape = (sum(info.shape[0] for info in infos), *infos[0].shape[1:])
        ids = [token for i in holders for token in found[i][name]]
        path = token_layer(name)
        merged.config.setdefault("trainable_token_indices", {})[path] = ids
        merged.tensors.append(WholeTensor(name, "F32", shape, partial(_rows, [files[i] for i in holders], name)))
        names = listed(inputs[i].name for i in holders)
        text = f"The embeddings of {len(ids)} tokens come as they are from {names}; weights do not act on them."
        merged.warnings.append({"code": "tokens_copied", "message": text})


def _rows(files: Sequence[AdapterFile], name: str) -> Tensor:
    return torch.cat([file.tensor(name).float() for file in files])


def _copy_heads(merged: WholeMerge, inputs: Sequence[MergeInput], files: Sequence[AdapterFile]) -> None:
    heads = [head_modules(item) for item in inputs]
    saved: set[str] = set()
    for path in sorted({path for found in heads for path in found}):
        holders = [i for i, found in enumerate(heads) if path in found]
        first = holders[0]
        if not all(_equal_heads(files[first], files[i], heads[first][path], heads[i][path]) for i in holders):
            names = listed(inputs[i].name for i in holders)
            text = f"Left out {path}: {names} hold different ones, which do not add up. Train one on the merge."
            merged.warnings.append({"code": "extra_head", "message": text})
            continue
        merged.tensors += [files[first].whole(name) for name in heads[first][path]]
        saved |= saved_names(inputs[first], path)
        if len(inputs) > 1:
            text = f"{path} comes as it is from {inputs[first].name}, with which alone it was trained."
            merged.warnings.append({"code": "head_copied", "message": text})
    _save(merged, saved)


def _equal_heads(one: AdapterFile, other: AdapterFile, names: list[str], theirs: list[str]) -> bool:
    return names == theirs and all(torch.equal(one.tensor(name), other.tensor(name)) for name in names)


def _save(merged: WholeMerge, names: set[str]) -> None:
    if names:
        merged.config["modules_to_save"] = sorted({*merged.config.get("modules_to_save", []), *names})
