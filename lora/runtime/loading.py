"""A base model in memory, from what `save_pretrained` wrote of it and of its tokenizer."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora.lazy_torch import torch
from lora.runtime.probe import BaseNotHere, RunningBase
from lora.runtime.text import Tokens


def load_running_base(
    folder: Path,
    *,
    gguf: str | None = None,
    device: str = "cpu",
    progress: Callable[[float], None] = lambda fraction: None,
) -> RunningBase:
    """Load a causal language model and its tokenizer, in float32. Takes seconds to minutes.

    Nothing is fetched, no code of the folder is run, and no pickle is opened. It needs transformers, which nothing else
    in `lora/` does.

    Args:
        gguf: the file of the folder to take instead of its safetensors.
        progress: as `RunningBase` has it.
    Raises: BaseNotHere: the folder is no such model, or transformers is not installed.
    """
    try:
        model, tokenizer = _load(folder, gguf)
    except Exception as error:  # whatever transformers makes of a folder that is something else
        text = f"{folder.name} cannot be loaded as a causal language model with its tokenizer: {error}"
        raise BaseNotHere(text) from error
    return as_running_base(model.to(device), tokenizer, progress)


def as_running_base(
    model: Any, tokenizer: Any, progress: Callable[[float], None] = lambda fraction: None
) -> RunningBase:
    """Return a causal language model and tokenizer of transformers, frozen, as methods with data run them."""
    model = model.eval().requires_grad_(False)
    tokens = Tokens(
        prompt=lambda text: list(tokenizer(text)["input_ids"]),
        answer=lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"]),
        end=tokenizer.eos_token_id,
        text=lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)),
    )
    return RunningBase(model, lambda ids: model(input_ids=ids, use_cache=False).logits, tokens, progress)


def in_bfloat16(base: RunningBase) -> RunningBase:
    """Return the base with its weights turned to bfloat16 where its device multiplies that natively; else as it is."""
    device = next(base.model.parameters()).device.type
    known = torch.cpu.get_capabilities() if device == "cpu" else {"avx512_bf16": True}
    if known.get("avx512_bf16") or known.get("amx_bf16"):
        base.model.to(torch.bfloat16)
    return base


def _load(folder: Path, gguf: str | None) -> tuple[Any, Any]:
    transformers = importlib.import_module("transformers")
    transformers.utils.logging.disable_progress_bar()
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    plain = {"use_safetensors": True}
    if gguf:
        options["gguf_file"] = gguf
        plain = {"quantization_config": transformers.GgufConfig(dequantize=True)}
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **plain, **options)
    return model, transformers.AutoTokenizer.from_pretrained(folder, **options)
