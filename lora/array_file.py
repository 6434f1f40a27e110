"""Arrays as the bytes of a safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save  # noqa: TID251


def array_file(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return arrays of any shape and memory order under their names.

    safetensors writes the memory of an array as it is, so that one in another order than C comes back scrambled.
    """
    ordered = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    data: bytes = save(ordered, metadata=dict(metadata) if metadata else None)
    return data
