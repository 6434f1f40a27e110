"""Hybrid: the mean of an expert's samples in a fitted hybrid space, with what makes its score one inner product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lora.prototypes import PROTOTYPES

if TYPE_CHECKING:
    from lora.hybrid.space import HybridSpace


@PROTOTYPES.register(
    "hybrid",
    title="Hybrid row",
    summary="The whitened mean of meaning and surface form of all sample inputs, in a fitted version of the space.",
    source="Ours: Gaussian class means under one shared, frozen whitening",
    needs=("samples",),
    space="text",
)
def hybrid(embeddings: NDArray[np.float32], texts: Sequence[str], space: HybridSpace) -> NDArray[np.float32]:
    """Return the row (d + 1,) of an expert.

    Args:
        embeddings: (n, dim), unit rows of `texts`, which are unwrapped sample inputs.
    Raises: LoraError: the rows are no unit vectors of the space's encoder.
    """
    return space.expert_row(embeddings, texts)
