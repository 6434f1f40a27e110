"""Samples: every sample input of an adapter as one row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lora.errors import LoraError
from lora.prototypes import PROTOTYPES


def check_rows(embeddings: NDArray[np.float32]) -> None:
    """Check that `embeddings` is (n, dim) with n >= 1 finite rows of length 1.

    Raises: LoraError: it is not.
    """
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise LoraError(f"Embeddings must be (n, dim) with at least one row, not {embeddings.shape}.")
    if not np.isfinite(embeddings).all():
        raise LoraError("Embeddings must be finite numbers.")
    lengths = np.linalg.norm(embeddings, axis=1)
    if np.abs(lengths - 1).max() > 1e-3:
        raise LoraError("Embeddings must be unit vectors; normalise them where they are encoded.")


@PROTOTYPES.register(
    "samples",
    title="Sample vectors",
    summary="The embedding of every sample input, for routers that compare with single samples.",
    source="Retrieval of Experts, arXiv:2302.03202",
    needs=("samples",),
    space="text",
)
def samples(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows themselves, checked.

    Args:
        embeddings: (n, dim), float32, n >= 1, every row of length 1.
    Returns: the same array.
    Raises: LoraError: no rows, or rows that are not finite unit vectors.
    """
    check_rows(embeddings)
    return embeddings
