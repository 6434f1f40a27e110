"""Mean activations: per module, the mean direction of what an expert's samples send into it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lora.errors import LoraError
from lora.examples import Example, drawn
from lora.module_routers import unit_rows
from lora.prototypes import PROTOTYPES
from lora.runtime.probe import RunningBase
from lora.runtime.states import module_states

MOST = 64  # samples that are read: what a mean needs, in seconds


class NoSamples(LoraError):
    """There is nothing that the base could read."""

    code = "no_samples"


@PROTOTYPES.register(
    "activations",
    title="Mean activations",
    summary="Per module, the mean direction of what the expert's sample inputs send into it, with the base alone.",
    source="the average-activation baseline of PHATGOOSE, arXiv:2402.05859; of directions, for cosines are compared",
    needs=("samples", "base_model"),
    space="module",
)
def activations(
    base: RunningBase, paths: Sequence[str], examples: Sequence[Example], seed: int = 0
) -> dict[str, NDArray[np.float32]]:
    """Return the mean over samples of the mean over tokens of x/|x|, path → (d_in,).

    Args:
        paths: of linear modules of the base.
        examples: of which the inputs are read, at most `MOST` that the seed draws.
    Raises: NoSamples; DoesNotFit: the base lacks a module.
    """
    means: dict[str, NDArray[np.float64]] = {}
    count = 0
    for states in states_of_samples(base, paths, examples, seed):
        count += 1
        for path, x in states.items():
            mean = unit_rows(x).mean(axis=0)
            means[path] = means[path] + mean if path in means else mean
    return {path: (total / count).astype(np.float32) for path, total in means.items()}


def states_of_samples(
    base: RunningBase, paths: Sequence[str], examples: Sequence[Example], seed: int
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Yield what `module_states` returns of each example, of at most `MOST` that the seed draws; tell the progress.

    Raises: NoSamples; DoesNotFit: the base lacks a module.
    """
    if not examples:
        raise NoSamples("The adapter has no samples, which the base would read.")
    chosen = drawn(examples, MOST, seed)
    for done, example in enumerate(chosen):
        base.progress(done / len(chosen))
        yield module_states(base, example.input, paths)
