"""What enters the modules of a base model while it reads a text."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lora.lazy_torch import torch
from lora.runtime.adapted import DoesNotFit, find_modules
from lora.runtime.probe import RunningBase
from lora.runtime.text import LINE, MAX_TOKENS, PROMPT

if TYPE_CHECKING:
    from torch import Tensor


def module_states(base: RunningBase, text: str, paths: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Run the base on a text, asked as the experts' prompts are, and return what enters modules: path → (t, d_in).

    Modules that read the same share one array. Of long texts the last `MAX_TOKENS` tokens are read.

    Raises: DoesNotFit: the base has no such module, or one that reads no activations.
    """
    ids = base.tokens.prompt(PROMPT.replace(LINE, text))[-MAX_TOKENS:]
    modules = find_modules(base.model, paths)
    seen: dict[str, Tensor] = {}
    with ExitStack() as stack, torch.no_grad():
        for path, module in modules.items():
            stack.callback(module.register_forward_pre_hook(_keep(path, seen)).remove)
        device = next(base.model.parameters()).device
        base.logits(torch.tensor([ids], device=device))
    arrays: dict[int, NDArray[np.float32]] = {}
    found = {}
    for path, x in seen.items():
        if not x.is_floating_point():
            raise DoesNotFit(f"{path} reads token ids, which say nothing of directions.")
        # `seen` holds every tensor, so that no other one can have the same id
        if id(x) not in arrays:
            arrays[id(x)] = x.detach().flatten(0, -2).float().cpu().numpy()
        found[path] = arrays[id(x)]
    return found


def _keep(path: str, seen: dict[str, Tensor]) -> Any:
    def look(module: Any, args: tuple[Any, ...]) -> None:
        seen[path] = args[0]

    return look
