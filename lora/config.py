"""Strict schema of `adapter_config.json`, which is hostile input."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class LoraConfig:
    """What an `adapter_config.json` says, checked.

    `base_model` is None where the file names none, or a path on the contributor's machine. `ignored` lists keys that
    are unknown or have no effect on the weights. Nothing here was evaluated, imported or opened.
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
    trainable_token_indices: int = 0
    init_lora_weights: bool | str = True
    variants: tuple[str, ...] = ()
    task_type: str | None = None
    base_model: str | None = None
    revision: str | None = None
    peft_version: str | None = None
    ignored: tuple[str, ...] = ()

    def rank_of(self, path: str) -> int:
        """Return the rank that the config gives to a module."""
        raise NotImplementedError

    def scaling_of(self, path: str, rank: int) -> float:
        """Return s of ΔW = s·B·A for a module of this rank: alpha/r, or alpha/√r with rsLoRA."""
        return self.lora_alpha / (math.sqrt(rank) if self.use_rslora else rank)


def parse_config(raw: bytes) -> LoraConfig:
    """Parse and check an `adapter_config.json`."""
    raise NotImplementedError
