"""The version of the space that ships: fitted to the background alone, so that no pool has to wait for a fit."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from safetensors import safe_open
from safetensors.numpy import load_file

from lora.hybrid.space import HybridSpace, Surface

# Written by bench/hybrid_default.py.
FILE = Path(__file__).with_name("default.safetensors")
ENCODER = "encoder"


@lru_cache(maxsize=1)
def _encoder() -> str:
    with safe_open(FILE, "np") as file:
        space: str = file.metadata()[ENCODER]
    return space


@lru_cache(maxsize=1)
def _load() -> HybridSpace:
    return HybridSpace.from_arrays(load_file(FILE))


def load_default(encoder: str) -> HybridSpace | None:
    """Return the version for an encoder's space; None for any other encoder than the one it was fitted with."""
    return _load() if encoder == _encoder() else None


def load_surface() -> Surface:
    """Return what turns texts into surface channels in it, which needs no encoder."""
    return _load().surface


def surface_id() -> str:
    """Return the name of the version of these channels: vectors of two are not to be compared."""
    return f"lexical-{_load().digest[:12]}"
