"""Middle: every sample input of an adapter halfway through the encoder, as one row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lora.prototypes import PROTOTYPES
from lora.prototypes.samples import check_rows


@PROTOTYPES.register(
    "middle",
    title="Middle-layer vectors",
    summary="The mean state of every sample input's tokens after half of the encoder's layers, for the hybrid space.",
    source="Skean et al. 2025, arXiv:2502.02013: intermediate layers",
    needs=("samples",),
    space="text",
)
def middle(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows themselves, checked.

    Args:
        rows: (n, width), float32, n >= 1, every row of length 1.
    Returns: the same array.
    Raises: LoraError: no rows, or rows that are not finite unit vectors.
    """
    check_rows(rows)
    return rows
