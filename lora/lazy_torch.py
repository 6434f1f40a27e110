"""`torch`, loaded at its first use.

The web process lists methods, parses parameters and refuses recipes without ever touching a tensor; importing
torch would cost it seconds and hundreds of MB. Every module of `lora/` therefore writes
`from lora.lazy_torch import torch` and uses it as usual: only the first attribute access imports the package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
else:

    class _Torch:
        def __getattr__(self, name: str) -> Any:
            value = getattr(importlib.import_module("torch"), name)
            setattr(self, name, value)  # the next access does not pass here
            return value

    torch = _Torch()

__all__ = ["torch"]
