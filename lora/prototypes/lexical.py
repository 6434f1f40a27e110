"""Lexical: what the samples of an adapter look like, whatever they mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lora.errors import LoraError
from lora.hybrid.default import load_surface
from lora.hybrid.wrappers import unwrap
from lora.prototypes import PROTOTYPES


@PROTOTYPES.register(
    "lexical",
    title="Lexical",
    summary="The mean of character n-grams, words at the edges and format numbers of all sample inputs.",
    source="Ours: the surface channels of the hybrid space that ships, before they are whitened",
    needs=("samples",),
    space="text",
)
def lexical(texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the unit vector along the mean of the texts' surface channels.

    Counts are frozen with the space that ships (`lora.hybrid.default`), so that vectors of any two adapters compare by
    their inner product, and no encoder is asked.

    Args:
        texts: n >= 1 sample inputs; chat templates around them are taken off.
    Returns: (CHARS + EDGES + FORMATS,), float32, of length 1: tf-idf of character 1- to 5-grams, and of words and word
        pairs and triples at the beginning, at the end and at the starts of lines, both hashed and projected with
        signs; then the numbers of the format. See `lora.hybrid.features`.
    Raises: LoraError: no texts.
    """
    if not texts:
        raise LoraError("There are no texts, so that they look like nothing.")
    mean = load_surface().rows([unwrap(text) for text in texts]).mean(axis=0, dtype=np.float64)
    unit: NDArray[np.float32] = (mean / np.linalg.norm(mean)).astype(np.float32)
    return unit
