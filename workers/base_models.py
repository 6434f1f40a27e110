"""Base models in memory, for jobs that run one: from a folder below BASE_MODELS_DIR, or from an installed package."""

import logging
from collections.abc import Callable

from django.conf import settings

from lora.runtime.loading import load_running_base
from lora.runtime.probe import BaseNotHere, RunningBase
from registry.base_weights import PACKAGED, base_folder, find_packaged
from workers.runner import Work

logger = logging.getLogger(__name__)


def running_base(name: str, progress: Callable[[float], None]) -> RunningBase:
    """The base model of an id or alias, in float32 on DEVICE. Takes seconds to minutes.

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
        return load_running_base(folder, gguf=gguf, device=settings.DEVICE, progress=progress)
    except BaseNotHere as error:
        logger.warning("The base model %s cannot be loaded from %s", name, folder, exc_info=True)
        text = f"{name} is here, but cannot be loaded as a causal language model with its tokenizer; the log has why."
        raise BaseNotHere(text) from error


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
