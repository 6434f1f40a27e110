"""Adapters with the module shapes of a 7B model (Llama-2-7B: 32 layers of 7 linear modules, 224 in all)."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from lora.config import LoraConfig, parse_config
from lora.header import read_header
from lora.layout import Layout, read_layout

HIDDEN, INNER, RANK = 4096, 11008, 16
LAYER = {  # name: (d_out, d_in)
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN, HIDDEN),
    "self_attn.v_proj": (HIDDEN, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}


def write_adapter_7b(folder: Path, *, layers: int, seed: int) -> Path:
    """Write a random float32 adapter of rank 16; return its folder."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(layers):
        for name, (d_out, d_in) in LAYER.items():
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(RANK, d_in, generator=generator) / d_in**0.5
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(d_out, RANK, generator=generator) / RANK
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    targets = sorted({name.rsplit(".", 1)[-1] for name in LAYER})
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def read_folder(folder: Path) -> tuple[Path, Layout, LoraConfig]:
    """Return weights file, layout and config of an adapter folder."""
    weights = folder / "adapter_model.safetensors"
    config = parse_config((folder / "adapter_config.json").read_bytes())
    with weights.open("rb") as stream:
        header = read_header(stream, weights.stat().st_size)
    return weights, read_layout(header, config), config


def adapter_folders(root: Path) -> Iterator[Path]:
    """Yield every adapter folder below a folder."""
    for config in sorted(root.rglob("adapter_config.json")):
        yield config.parent
