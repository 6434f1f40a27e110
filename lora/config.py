"""Strict schema of `adapter_config.json`, which is hostile input: nothing in it is imported, opened or run.

Accepts what PEFT 0.4 to 0.21 write. Numbers and patterns are checked; what has no effect on trained weights is listed.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lora import config_values as values
from lora.errors import InvalidAdapter, Problem
from lora.patterns import PatternTable
from lora.strict_json import parse_object, plain

CONFIG_NAME = "adapter_config.json"
MAX_CONFIG_BYTES = 4_000_000
MAX_UNKNOWN_KEYS = 100
# initialisations that move part of the base's weights into the adapter
BASE_CHANGING_INITS = ("pissa", "olora", "corda", "lora_ga", "loftq")


@dataclass(frozen=True)
class LoraConfig:
    """What an `adapter_config.json` says, checked.

    Attributes:
        r, lora_alpha: the defaults; `rank_of` and `scaling_of` answer for a module.
        target_modules, exclude_modules: names, or one regex, or None. Other tools evaluate the regex.
        trainable_token_indices: ids of tokens by the embedding that they are rows of, "" where it is not named.
        init_lora_weights: as given. "pissa", "olora", "corda" and "lora_ga" changed the base in training.
        variants: keys in use that make the change of weights something else than s·B·A, such as `use_qalora`.
        base_model: id, or None where the file has none or names a folder on the contributor's machine.
        ignored: keys that are unknown or without effect on the weights, sorted; to be listed in reports.
    """

    r: int
    lora_alpha: float
    target_modules: tuple[str, ...] | str | None = None
    exclude_modules: tuple[str, ...] | str | None = None
    target_parameters: tuple[str, ...] = ()
    layers_to_transform: tuple[int, ...] = ()
    layers_pattern: tuple[str, ...] = ()
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    bias: str = "none"
    lora_bias: bool = False
    modules_to_save: tuple[str, ...] = ()
    layer_replication: tuple[tuple[int, int], ...] = ()
    trainable_token_indices: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    init_lora_weights: bool | str = True
    variants: tuple[str, ...] = ()
    task_type: str | None = None
    base_model: str | None = None
    revision: str | None = None
    peft_version: str | None = None
    ignored: tuple[str, ...] = ()

    @cached_property
    def _ranks(self) -> PatternTable:
        return PatternTable(list(self.rank_pattern))

    @cached_property
    def _alphas(self) -> PatternTable:
        return PatternTable(list(self.alpha_pattern))

    def rank_of(self, path: str) -> int:
        """Return the rank of a module: `rank_pattern`'s first matching key, else `r`.

        Raises: UnsafePattern: the patterns take too long to match.
        """
        key = self._ranks.first(path)
        return self.r if key is None else self.rank_pattern[key]

    def scaling_of(self, path: str, rank: int) -> float:
        """Return s of ΔW = s·B·A for a module: alpha/r, or alpha/√r with rsLoRA (arXiv:2312.03732).

        Raises: UnsafePattern: the patterns take too long to match.
        """
        key = self._alphas.first(path)
        alpha = self.lora_alpha if key is None else self.alpha_pattern[key]
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


_REQUIRED = ("peft_type", "r", "lora_alpha")

# Keys that are stored, by the name of the attribute where that differs.
_FIELDS: dict[str, Callable[[object], Any]] = {
    "r": values.integer(1, values.MAX_RANK),
    "lora_alpha": values.alpha,
    "target_modules": values.targets,
    "exclude_modules": values.targets,
    "target_parameters": values.texts,
    "layers_to_transform": values.layer_indices,
    "layers_pattern": values.layer_patterns,
    "rank_pattern": values.pattern_of(values.integer(1, values.MAX_RANK)),
    "alpha_pattern": values.pattern_of(values.number),
    "use_rslora": values.flag,
    "use_dora": values.flag,
    "fan_in_fan_out": values.flag,
    "bias": values.bias,
    "lora_bias": values.flag,
    "modules_to_save": values.module_names,
    "layer_replication": values.replications,
    "trainable_token_indices": values.token_ids,
    "init_lora_weights": values.init,
    "task_type": values.task_type,
    "base_model_name_or_path": values.base_model,
    "revision": values.revision,
    "peft_version": values.text,
}
_ATTRIBUTES = {"base_model_name_or_path": "base_model"}

# Checked, then dropped: they say how training went, not what the weights are.
_CHECKED: dict[str, Callable[[object], object]] = {
    "peft_type": values.peft_type,
    "inference_mode": values.flag,
    "lora_dropout": values.dropout,
    "ensure_weight_tying": values.flag,
    "qalora_group_size": values.integer(1, values.MAX_RANK),
    "megatron_core": values.megatron_core,
}
# The same, but worth listing where they say anything.
_LISTED: dict[str, Callable[[object], object]] = {
    "auto_mapping": values.auto_mapping,
    "megatron_config": values.training_options,
    "loftq_config": values.training_options,
    "eva_config": values.training_options,
    "corda_config": values.training_options,
    "lora_ga_config": values.training_options,
    "velora_config": values.training_options,
    "runtime_config": values.training_options,
}
_VARIANTS = (
    "alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config", "use_bdlora", "use_qalora",
)  # fmt: skip


def parse_config(raw: bytes) -> LoraConfig:
    """Parse and check an `adapter_config.json`.

    Raises: InvalidAdapter: one problem per bad key; `where` names it.
    """
    where = CONFIG_NAME
    if not raw.strip():
        raise InvalidAdapter([Problem("empty_file", where, "The file is empty. Send the one that PEFT saved.")])
    if len(raw) > MAX_CONFIG_BYTES:
        message = f"The file has {len(raw)} bytes; at most {MAX_CONFIG_BYTES} are read. Shorten its lists."
        raise InvalidAdapter([Problem("too_large", where, message)])
    entries = parse_object(raw, where)
    problems = _missing(entries)
    found, ignored = {}, []
    for key, value in entries.items():
        if value is None and key not in _REQUIRED:
            continue  # null means the default, as in PEFT
        try:
            if key in _FIELDS:
                found[_ATTRIBUTES.get(key, key)] = _FIELDS[key](value)
            elif _is_ignored(key, value):
                ignored.append(key)
        except values.RefusedValue as refused:
            problems.append(Problem(refused.code, f"{where}: {plain(key)}", refused.message))
    problems += _too_many_unknown(ignored)
    if problems:
        raise InvalidAdapter(problems)
    if "base_model" in found and found["base_model"] is None:
        ignored.append("base_model_name_or_path")
    variants = tuple(key for key in _VARIANTS if entries.get(key))
    return LoraConfig(**found, variants=variants, ignored=tuple(sorted(ignored)))


def _missing(entries: Mapping[str, object]) -> list[Problem]:
    hint = "Send the config that PEFT saved beside the weights."
    return [
        Problem("missing_key", f"{CONFIG_NAME}: {key}", f'"{key}" is missing. {hint}')
        for key in _REQUIRED
        if key not in entries
    ]


def _is_ignored(key: str, value: object) -> bool:
    """Check a key that is not stored; return whether a report must list it."""
    if key in _CHECKED:
        _CHECKED[key](value)
        return False
    if key in _LISTED:
        _LISTED[key](value)
        return bool(value)
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", key, re.ASCII):
        raise values.RefusedValue("bad_key", "This is not a key of a PEFT config. Remove it.")
    return key not in _VARIANTS


def _too_many_unknown(ignored: list[str]) -> list[Problem]:
    if len(ignored) <= MAX_UNKNOWN_KEYS:
        return []
    message = f"It has {len(ignored)} unknown keys. Send the config that PEFT saved."
    return [Problem("bad_key", CONFIG_NAME, message)]
