"""Small real adapters: the files that PEFT would write, made with safetensors itself."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

MODULES = {
    "model.layers.0.self_attn.q_proj": (8, 8),
    "model.layers.0.self_attn.v_proj": (4, 8),
    "model.layers.1.self_attn.q_proj": (8, 8),
    "model.layers.1.self_attn.v_proj": (4, 8),
}


def adapter_config(modules: Mapping[str, tuple[int, int]], rank: int = 4, alpha: float = 8) -> dict[str, Any]:
    """Return a config as PEFT writes it, for the given modules."""
    return {
        "alpha_pattern": {},
        "auto_mapping": None,
        "base_model_name_or_path": "acme/tiny-base",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "loftq_config": {},
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "megatron_config": None,
        "megatron_core": "megatron.core",
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {},
        "revision": None,
        "target_modules": sorted({path.rsplit(".", 1)[-1] for path in modules}),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def factors(
    modules: Mapping[str, tuple[int, int]], rank: int = 4, dtype: torch.dtype = torch.float32, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Return random `lora_A` (rank, d_in) and `lora_B` (d_out, rank) by the names that PEFT gives them."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for path, (d_out, d_in) in modules.items():
        prefix = f"base_model.model.{path}"
        tensors[f"{prefix}.lora_A.weight"] = torch.randn(rank, d_in, generator=generator).to(dtype)
        tensors[f"{prefix}.lora_B.weight"] = torch.randn(d_out, rank, generator=generator).to(dtype)
    return tensors


def write_files(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Path:
    """Write `adapter_config.json` and `adapter_model.safetensors`; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    save_file(dict(tensors), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def write_adapter_files(
    folder: Path,
    modules: Mapping[str, tuple[int, int]] = MODULES,
    rank: int = 4,
    alpha: float = 8,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    config_overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Write a PEFT folder with random factors for `modules`, path → (d_out, d_in); return the folder."""
    config = adapter_config(modules, rank, alpha) | dict(config_overrides or {})
    return write_files(folder, config, factors(modules, rank, dtype, seed))
