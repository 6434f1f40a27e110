"""Centroid: one unit vector that stands for all samples of an adapter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lora.errors import LoraError
from lora.prototypes import PROTOTYPES
from lora.prototypes.samples import check_rows


@PROTOTYPES.register(
    "centroid",
    title="Sample centroid",
    summary="The normalised mean of the embeddings of all sample inputs.",
    source="LoraRetriever, arXiv:2402.09997; normalised, so that scores are cosines",
    needs=("samples",),
    space="text",
)
def centroid(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the unit vector along the mean of unit rows.

    Args:
        embeddings: (n, dim), float32, n >= 1, every row of length 1.
    Returns: (dim,), float32, a new array of length 1.
    Raises: LoraError: no rows, rows that are not finite unit vectors, or a mean of zero.
    """
    check_rows(embeddings)
    mean = embeddings.mean(axis=0, dtype=np.float64)
    length = float(np.linalg.norm(mean))
    if length < 1e-6:  # opposite rows: any direction would be rounding noise
        raise LoraError("The embeddings cancel out, so that they have no centroid.")
    unit: NDArray[np.float32] = (mean / length).astype(np.float32)
    return unit
