"""The verdict on an adapter, from its config and header alone; `lora/values.py` judges the tensors' values."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO

from lora.binding import BaseModules, bind, listed
from lora.config import CONFIG_NAME, LoraConfig, parse_config
from lora.errors import InvalidAdapter, Problem
from lora.header import Header, read_header
from lora.layout import PREFIX, Layout, ModuleLayout, read_layout
from lora.targets import targeted_in_base, targets_without_tensors, untargeted
from lora.values import ValueReport, check_values

__all__ = [
    "NO_SAMPLES",
    "TEMPLATE_CARD",
    "ValueReport",
    "Verdict",
    "check_files",
    "check_values",
    "is_template_card",
    "read_pair",
    "warning",
]

_WIDTHS = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


@dataclass(frozen=True)
class Verdict:
    """A usable adapter.

    Attributes:
        layout: its modules and other tensors.
        facts: peft_type, rank, alpha, scaling (the config's defaults), dtype, size_bytes, parameters (of the LoRA),
            modules_bound, modules_in_base (how many of the base's modules the config targets; None where the base is
            not known), ignored, modules: [{path, rank, d_in, d_out, scaling}].
        warnings: [{code, message}].
    """

    layout: Layout
    facts: dict[str, Any]
    warnings: list[dict[str, str]]


def warning(code: str, message: str) -> dict[str, str]:
    """Return one warning as reports hold it."""
    return {"code": code, "message": message}


NO_SAMPLES = warning(
    "no_samples", "Without samples.jsonl it is listed and can be merged, but no text router will find it."
)
TEMPLATE_CARD = warning(
    "template_card",
    "README.md is the unfilled template. Say what the adapter does, on what data, under which licence.",
)


def is_template_card(text: str) -> bool:
    """Return whether a card still has the blanks of the template that training libraries write."""
    return text.count("[More Information Needed]") >= 5


def first_paragraph(text: str) -> str:
    """Return the first prose of a card's body, for use as a description; "" where there is none."""
    for paragraph in text.split("\n\n"):
        prose = " ".join(paragraph.split())
        if prose and prose[0] not in "#<![|-`":
            return prose[:500]
    return ""


def read_pair(config: bytes, weights: BinaryIO, size_bytes: int) -> tuple[LoraConfig, Header]:
    """Parse config and header, so that the problems of both are told together.

    Args:
        weights: at the file's beginning; only its header is read.
        size_bytes: of the whole weights' file.
    Raises: InvalidAdapter: the problems of the config, then those of the header.
    """
    problems: list[Problem] = []
    try:
        parsed = parse_config(config)
    except InvalidAdapter as error:
        problems += error.problems
    try:
        header = read_header(weights, size_bytes)
    except InvalidAdapter as error:
        problems += error.problems
    if problems:
        raise InvalidAdapter(problems)
    return parsed, header


def check_files(config: LoraConfig, header: Header, size_bytes: int, base_modules: BaseModules | None) -> Verdict:
    """Judge an adapter without reading its tensors.

    Args:
        size_bytes: of the weights' file.
        base_modules: path → (d_out, d_in) of the base, or None where it is not known.
    Raises: InvalidAdapter: the adapter is not usable, or does not fit the base.
    """
    layout = read_layout(header, config)
    left_out = untargeted(layout.modules, config)
    if left_out:
        message = f"It does not select {listed(left_out)}, so that PEFT would skip their tensors. Name all modules."
        raise InvalidAdapter([Problem("module_not_targeted", f"{CONFIG_NAME}: target_modules", message)])
    if base_modules is not None:
        bind(layout, base_modules)
    facts = _facts(config, header, layout)
    in_base = None
    if base_modules is not None:
        # A wrapper around the base hides full paths from the config's targets; what is bound is in the base for sure.
        in_base = max(len(targeted_in_base(base_modules, config)), len(layout.modules))
    facts |= {"size_bytes": size_bytes, "modules_in_base": in_base}
    return Verdict(layout, facts, list(_warnings(config, layout, base_modules is not None)))


def _facts(config: LoraConfig, header: Header, layout: Layout) -> dict[str, Any]:
    modules = layout.modules.values()
    tensors = [header.tensors[name] for module in modules for name in _names(module)]
    dtypes = {header.tensors[module.a_name].dtype for module in modules}
    dtypes |= {header.tensors[module.b_name].dtype for module in modules}
    return {
        "peft_type": "LORA",
        "rank": config.r,
        "alpha": config.lora_alpha,
        "scaling": config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r),
        "dtype": "float32" if dtypes == {"BF16", "F16"} else _WIDTHS[max(dtypes, key=list(_WIDTHS).index)],
        "parameters": sum(prod(tensor.shape) for tensor in tensors),
        "modules_bound": len(layout.modules),
        "ignored": list(config.ignored),
        "modules": [
            {"path": m.path, "rank": m.rank, "d_in": m.d_in, "d_out": m.d_out, "scaling": m.scaling} for m in modules
        ],
    }


def _names(module: ModuleLayout) -> list[str]:
    names = (module.a_name, module.b_name, module.bias_name, module.magnitude_name)
    return [name for name in names if name is not None]


def _warnings(config: LoraConfig, layout: Layout, base_known: bool) -> Iterator[dict[str, str]]:
    if not base_known:
        yield warning("base_unknown", _base_unknown(config))
    empty = targets_without_tensors(layout.modules, config)
    if empty:
        yield warning(
            "targets_without_tensors", f"The config targets {listed(empty)}; the file has no tensors of them."
        )
    heads = _heads(config, layout)
    if heads:
        undeclared = [head for head in heads if not set(head.split(".")) & _saved(config)]
        how = f", of which modules_to_save does not name {listed(undeclared)}" if undeclared else ""
        yield warning("extra_head", f"It brings whole weights of {listed(heads)}{how}. A merge leaves them out.")
    yield from _bias_warnings(config, layout)
    renamed = [
        m.path for m in layout.modules.values() if not m.b_name.endswith((".lora_B.weight", ".lora_embedding_B"))
    ]
    if renamed:
        message = f"Names of tensors hold the adapter's name ({listed(renamed)}). PEFT skips them; save it again."
        yield warning("unusual_names", message)


def _base_unknown(config: LoraConfig) -> str:
    if config.base_model:
        return f"The base {config.base_model} is not registered here, so that the modules were not compared with it."
    if "base_model_name_or_path" in config.ignored:
        return "The config names a folder on somebody's machine as base. Say which model it is."
    return "The config names no base. Say which model the adapter was trained on."


def _saved(config: LoraConfig) -> set[str]:
    return {segment for name in config.modules_to_save for segment in name.split(".")}


def _heads(config: LoraConfig, layout: Layout) -> list[str]:
    """Return the modules of which the file holds whole weights; trained biases are judged apart."""
    names = [name for name in layout.extra if config.bias == "none" or not name.endswith(".bias")]
    return sorted({name.removeprefix(PREFIX).rpartition(".")[0] for name in names})


def _bias_warnings(config: LoraConfig, layout: Layout) -> Iterator[dict[str, str]]:
    if config.bias == "none":
        return
    without = [
        path
        for path in layout.modules
        if f"{PREFIX}{path}.bias" not in layout.extra and f"{PREFIX}{path}.base_layer.bias" not in layout.extra
    ]
    if without:
        message = f'The config says bias="{config.bias}", and the file has no bias of {listed(without)}.'
        yield warning("bias_missing", message)
