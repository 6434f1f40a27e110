"""Tiny bases with every kind of layer, and real PEFT adapters on them."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

VOCAB, DIM = 11, 8


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(DIM, 6)
        self.v = nn.Linear(DIM, 9, bias=False)
        self.c = Conv1D(10, DIM)  # weight (in, out)


class TinyBase(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, DIM)
        self.layers = nn.ModuleList([Block(), Block()])
        self.conv = nn.Conv2d(3, 5, kernel_size=(2, 3))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = x + layer.q(x).mean(-1, keepdim=True) + layer.v(x).mean(-1, keepdim=True) + layer.c(x)[..., :DIM]
        return x + self.conv(x.reshape(-1, 1, 1, DIM).expand(-1, 3, 4, -1)).mean()


def tiny_base() -> TinyBase:
    """Return the base; its weights are always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TinyBase()


def save_adapter(folder: Path, seed: int, dtype: torch.dtype = torch.float32, **config: Any) -> Path:
    """Let PEFT write an adapter with random A and B; return its folder."""
    model = get_peft_model(tiny_base(), LoraConfig(**config))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "lora_" in name:
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
    model.save_pretrained(folder, save_embedding_layers=False)
    weights = folder / "adapter_model.safetensors"
    config_file = folder / "adapter_config.json"
    settings = json.loads(config_file.read_text())  # names this very module as the base's library
    config_file.write_text(json.dumps(settings | {"auto_mapping": None}))
    save_file({k: v.to(dtype) for k, v in load_file(weights).items()}, weights, metadata={"format": "pt"})
    return folder


def loaded_deltas(folder: Path) -> dict[str, torch.Tensor]:
    """Load an adapter with PEFT; return path → ΔW, in the orientation of the base's weight."""
    model = PeftModel.from_pretrained(tiny_base(), folder)
    return {
        path.removeprefix("base_model.model."): module.get_delta_weight("default").detach()
        for path, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def peft_merge(folders: list[Path], weights: list[float], **options: Any) -> dict[str, torch.Tensor]:
    """Merge with PEFT's own `add_weighted_adapter`; return path → ΔW."""
    model = PeftModel.from_pretrained(tiny_base(), folders[0], adapter_name="0")
    for i, folder in enumerate(folders[1:], 1):
        model.load_adapter(folder, adapter_name=str(i))
    model.add_weighted_adapter([str(i) for i in range(len(folders))], weights, "merged", **options)
    return {
        path.removeprefix("base_model.model."): module.get_delta_weight("merged").detach()
        for path, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
