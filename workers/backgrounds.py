"""What the generic texts send into the modules of a base model, kept on this worker's disk: one pass per base."""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from django.conf import settings
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from lora.array_file import array_file
from lora.generic_texts import DIGEST, GENERIC_TEXTS
from lora.module_routers import States, unit_rows
from lora.runtime.probe import RunningBase
from lora.runtime.states import module_states
from lora.runtime.text import PROMPT
from registry.queries import find_base_model

logger = logging.getLogger(__name__)


def background(base_model: str, paths: Iterable[str], base: Callable[[], RunningBase]) -> list[States]:
    """What each generic text sends into these modules of a base, as directions, from the disk or by running the base.

    Args:
        base: called where the disk lacks some; modules that it does not have are left out.
    """
    wanted, file = set(paths), _file(base_model)
    known = _modules(file)
    if not wanted <= known.keys():
        running = base()
        wanted |= known.keys()
        there = sorted(wanted & dict(running.model.named_modules()).keys())
        _write(file, [module_states(running, text, there) for text in GENERIC_TEXTS], wanted)
    return _read(file)


def held_background(base_model: str, paths: Iterable[str]) -> list[States] | None:
    """The same from the disk alone; None where it lacks some of these modules."""
    if not _folder().exists():  # of no base: as on every worker that never routed from weights
        return None
    file = _file(base_model)
    return _read(file) if set(paths) <= _modules(file).keys() else None


def _folder() -> Path:
    return settings.DATA_DIR / "backgrounds"


def _file(base_model: str) -> Path:
    base = find_base_model(base_model)
    what = [DIGEST, PROMPT, base.name if base else base_model, base.revision if base else ""]
    return _folder() / f"{hashlib.sha256(json.dumps(what).encode()).hexdigest()}.safetensors"


def _modules(file: Path) -> dict[str, str | None]:
    """Which modules a file is about, by the key of what they read, or None where the base lacks them; empty where there
    is no such file."""
    try:
        with safe_open(file, "np") as tensors:
            modules: dict[str, str | None] = json.loads(tensors.metadata()["modules"])
            return modules
    except FileNotFoundError:
        return {}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        logger.warning("%s is damaged and will be made anew", file, exc_info=True)
        return {}


def _read(file: Path) -> list[States]:
    """The states of every text."""
    modules, read = _modules(file), load_file(file)
    return [
        {path: read[f"{text}.{key}"] for path, key in modules.items() if key is not None}
        for text in range(len(GENERIC_TEXTS))
    ]


def _write(file: Path, states: list[States], asked: set[str]) -> None:
    """Write directions in half precision, shared by modules that read the same; what the base lacks is remembered."""
    keys: dict[int, str] = {}
    modules = {path: keys.setdefault(id(x), str(len(keys))) for path, x in states[0].items()}
    owners = {key: path for path, key in modules.items()}
    tensors = {
        f"{text}.{key}": unit_rows(x[path]).astype(np.float16)
        for text, x in enumerate(states)
        for key, path in owners.items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=file.parent, suffix=".part")
    os.close(handle)
    try:
        told = {"modules": json.dumps({path: modules.get(path) for path in asked})}
        Path(scratch).write_bytes(array_file(tensors, told))
        os.replace(scratch, file)
    finally:
        Path(scratch).unlink(missing_ok=True)
