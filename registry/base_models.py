"""Base models: registered from a list of module shapes, from a `config.json`, or from safetensors headers."""

import importlib
import json
from pathlib import Path
from typing import Any

from django.db import transaction

from registry.errors import Invalid
from registry.models import BaseModel

MAX_MODULES = 100_000
# Last path segments of transformers' Conv1D (GPT-2 and kin), whose weights are stored as (d_in, d_out).
CONV1D = ("c_attn", "c_proj", "c_fc", "q_attn")


@transaction.atomic
def register_base_model(name: Any, modules: Any, *, revision: Any = "", aliases: Any = ()) -> BaseModel:
    """Create or replace the base model `name`. `modules`: {path: [d_out, d_in]}. Raises: Invalid."""
    texts = [name, revision, *aliases] if isinstance(aliases, list | tuple) else [None]
    if not all(isinstance(text, str) and len(text) <= 200 and text.isprintable() for text in texts) or not name:
        raise Invalid("id, revision and aliases must be printable strings of at most 200 characters.")
    if not isinstance(modules, dict) or not 1 <= len(modules) <= MAX_MODULES:
        raise Invalid("modules must be an object {path: [d_out, d_in]} with at least one entry.")
    for path, shape in modules.items():
        good = isinstance(shape, list | tuple) and len(shape) == 2
        if not good or not all(type(side) is int and 1 <= side <= 2**31 for side in shape):
            raise Invalid(f"The shape of {path!r} must be [d_out, d_in], two whole numbers.", detail={"modules": path})
    base, _ = BaseModel.objects.update_or_create(
        name=name,
        defaults={
            "revision": revision,
            "aliases": list(aliases),
            "modules": {path: list(shape) for path, shape in modules.items()},
        },
    )
    return base


def modules_from_header(raw: bytes) -> dict[str, list[int]]:
    """Module shapes from a safetensors header as JSON (or `{path: [d_out, d_in]}` itself).

    Takes every 2-D `<path>.weight`. Raises: Invalid.
    """
    try:
        header = json.loads(raw)
    except ValueError as error:
        raise Invalid("The header file is not JSON.") from error
    if not isinstance(header, dict):
        raise Invalid("The header file must hold a JSON object.")
    if all(isinstance(value, list) for value in header.values()):
        return header
    weights = {name.removesuffix(".weight"): info for name, info in header.items() if name.endswith(".weight")}
    shapes = {
        path: info["shape"][::-1] if path.rsplit(".", 1)[-1] in CONV1D else info["shape"]
        for path, info in weights.items()
        if isinstance(info, dict) and len(info.get("shape", ())) == 2
    }
    if not shapes:
        raise Invalid("The header names no 2-D '<module>.weight'; is it the header of a base model?")
    return shapes


def modules_from_config(path: Path) -> dict[str, list[int]]:
    """Module shapes from a `config.json`: the architecture is built without weights. Raises: Invalid.

    Linear and Conv1D modules as [d_out, d_in], embeddings as [dim, vocab].
    """
    # Heavy, and needed by one command only.
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    conv1d = importlib.import_module("transformers.pytorch_utils").Conv1D
    try:
        config = transformers.AutoConfig.from_pretrained(str(path.parent if path.name == "config.json" else path))
        classes = (transformers.AutoModelForCausalLM, transformers.AutoModel)
        maker = next(maker for maker in classes if type(config) in maker._model_mapping)
        with torch.device("meta"):
            model = maker.from_config(config)
    except Exception as error:  # whatever transformers makes of a config that is not one
        raise Invalid(f"{path} is not the config.json of a model that transformers can build: {error}") from error
    kinds = (torch.nn.Linear, torch.nn.Embedding, conv1d)
    found = {name: (module, module.weight.shape) for name, module in model.named_modules() if isinstance(module, kinds)}
    return {
        name: list(shape) if isinstance(module, torch.nn.Linear) else list(shape)[::-1]
        for name, (module, shape) in found.items()
    }
