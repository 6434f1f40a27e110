"""Random adapters of rank 16 with the module shapes of real models: every linear module of every layer."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from lora.config import LoraConfig, parse_config
from lora.header import read_header
from lora.layout import Layout, read_layout

RANK = 16


def _llama(hidden: int, key_value: int, inner: int) -> dict[str, tuple[int, int]]:
    """Return name → (d_out, d_in) of the linear modules of one decoder layer."""
    return {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (key_value, hidden),
        "self_attn.v_proj": (key_value, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }


LAYER = _llama(4096, 4096, 11008)  # of Llama-2-7B, which has 32 of them
SMOLLM2_135M, SMOLLM2_LAYERS = _llama(576, 192, 1536), 30
LLAMA3_8B, LLAMA3_LAYERS = _llama(4096, 1024, 14336), 32


def write_adapter_7b(folder: Path, *, layers: int, seed: int) -> Path:
    """Write a random float32 adapter of Llama-2-7B; return its folder."""
    return write_adapter(folder, LAYER, layers=layers, seed=seed)


def write_adapter(folder: Path, layer_shapes: Mapping[str, tuple[int, int]], *, layers: int, seed: int) -> Path:
    """Write a random float32 adapter of so many layers; return its folder."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(layers):
        for name, (d_out, d_in) in layer_shapes.items():
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(RANK, d_in, generator=generator) / d_in**0.5
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(d_out, RANK, generator=generator) / RANK
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    targets = sorted({name.rsplit(".", 1)[-1] for name in layer_shapes})
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
