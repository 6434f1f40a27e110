"""Late states: what the last tokens of an expert's samples are in one late layer of the base."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lora.examples import Example
from lora.layout import layer_of
from lora.lazy_torch import torch
from lora.prototypes import PROTOTYPES
from lora.prototypes.activations import states_of_samples
from lora.runtime.adapted import DoesNotFit
from lora.runtime.probe import RunningBase

# Of the layers: on the example experts the second half begins where bare prompts are told apart best.
DEPTH = 0.5


@PROTOTYPES.register(
    "dam",
    title="Late states",
    summary="Of every sample input, what its last token sends into one late layer of the base.",
    source="DAM, Cheng et al. 2024, for one late layer; samples instead of their mean, so that their spread is known",
    needs=("samples", "base_model"),
    space="module",
)
def late_states(base: RunningBase, examples: Sequence[Example], seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Return path → (n, d_in), a row per sample; the only path is the base's `late_module`.

    Args:
        examples: of which the inputs are read, at most `MOST` that the seed draws.
    Raises: NoSamples; DoesNotFit: the base has no layers.
    """
    path = late_module(base)
    return {path: np.stack([states[path][-1] for states in states_of_samples(base, [path], examples, seed)])}


def late_module(base: RunningBase) -> str:
    """Return the path of the first linear module in the layer at `DEPTH`, the same for all experts of a base.

    A layer is the first number in a path. Raises: DoesNotFit: the base has none.
    """
    first: dict[int, str] = {}
    for path, module in base.model.named_modules():
        number = layer_of(path)
        weight = getattr(module, "weight", None)
        is_linear = weight is not None and weight.dim() == 2 and not isinstance(module, torch.nn.Embedding)
        if number is not None and is_linear:
            first.setdefault(number, path)
    if not first:
        raise DoesNotFit("The base at hand has no numbered layers with linear modules.")
    return first[sorted(first)[int(DEPTH * len(first))]]
