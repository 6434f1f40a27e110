"""The weights of a base model, for what ΔW alone does not tell: DoRA's directions, and biases that are replaced."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from lora.errors import LoraError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Base:
    """A base model's tensors, read one at a time.

    Attributes:
        names: as in its `state_dict()`.
        load: returns a tensor by its name.
        head_dim: rows of one attention head in q and k; None where it is not known.
    """

    names: Collection[str]
    load: Callable[[str], Tensor]
    head_dim: int | None = None

    def find(self, path: str, leaf: str) -> str | None:
        """Return the name of `weight` or `bias` of the module that an adapter calls `path`, or None.

        The base may have been saved without the wrapper that the adapter was trained in, or with it.
        """
        name, shorter = f"{path}.{leaf}", f"{path.partition('.')[2]}.{leaf}"
        longer = [known for known in self.names if known.endswith(f".{name}")]
        candidates = [name, shorter, *(longer if len(longer) == 1 else [])]
        return next((known for known in candidates if known in self.names), None)


def open_base(folder: Path) -> Base:
    """Open the safetensors files of a folder that `save_pretrained` wrote, one or several.

    Raises: LoraError: there are none, or one cannot be read.
    """
    files: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            file: Any = safe_open(path, framework="pt")
        except (OSError, SafetensorError) as error:
            raise LoraError(f"{path.name} of the base cannot be read: {error}") from error
        files |= dict.fromkeys(file.keys(), file)
    if not files:
        raise LoraError(f"{folder.name} holds no safetensors files of the base.")
    return Base(files.keys(), partial(_load, files), _head_dim(folder / "config.json"))


def _head_dim(config: Path) -> int | None:
    """Return the size of an attention head by a model's `config.json`, None where that does not say."""
    try:
        stated = json.loads(config.read_text(encoding="utf-8"))
        size = stated.get("head_dim") or stated["hidden_size"] // stated["num_attention_heads"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        return None
    return size if isinstance(size, int) and size > 0 else None


def _load(files: dict[str, Any], name: str) -> Tensor:
    tensor: Tensor = files[name].get_tensor(name)
    return tensor
