"""The weights of base models on this machine."""

from pathlib import Path

from django.conf import settings

from lora.base import Base, open_base
from registry.queries import find_base_model


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
