"""Float tensors of a safetensors file as numpy arrays, bfloat16 among them, which numpy does not know."""

import numpy as np
from numpy.typing import NDArray

from lora.header import Header

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def float_arrays(header: Header, data: bytes) -> dict[str, NDArray[np.float32]]:
    """Return every tensor by name, as float32.

    Args:
        header: of a file whose tensors are of `DTYPES`.
        data: what follows the header.
    """
    arrays: dict[str, NDArray[np.float32]] = {}
    for name, info in header.tensors.items():
        raw = np.frombuffer(data[info.start : info.end], DTYPES[info.dtype]).reshape(info.shape)
        # bfloat16 is the upper half of a float32
        arrays[name] = (raw.astype("<u4") << 16).view("<f4") if info.dtype == "BF16" else raw.astype(np.float32)
    return arrays
