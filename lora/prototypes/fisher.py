"""Fisher embedding: how much the base's answers to an expert's task depend on every input feature of a module."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lora.examples import Example, drawn
from lora.prototypes import PROTOTYPES
from lora.prototypes.activations import NoSamples
from lora.runtime.adapted import answer_scores, find_modules
from lora.runtime.probe import RunningBase
from lora.runtime.text import PROMPT, Batch, batches

if TYPE_CHECKING:
    from torch import Tensor

MOST = 32  # samples that are read, forward and backward


@PROTOTYPES.register(
    "fisher",
    title="Fisher embedding",
    summary="Per module, the diagonal Fisher information of the base's weight at labelled samples, as its mean over "
    "the outputs of the module: a number per input feature.",
    source="π-Tuning, arXiv:2304.14381, and Task2Vec, arXiv:1902.03545; of the base's own weights, which all experts "
    "share, so that it does not matter how a ΔW is split, and with one example at a time",
    needs=("labels", "base_model"),
    space="module",
)
def fisher(
    base: RunningBase, paths: Sequence[str], examples: Sequence[Example], seed: int = 0
) -> dict[str, NDArray[np.float32]]:
    """Return the mean over examples and outputs o of (∂ log p(answer)/∂W_oj)², path → (d_in,).

    Args:
        paths: of linear modules of the base.
        examples: those with outputs are read, at most `MOST` that the seed draws.
    Raises: NoSamples: none has an output; DoesNotFit: the base lacks a module.
    """
    chosen = drawn([example for example in examples if example.output], MOST, seed)
    if not chosen:
        raise NoSamples("There are no examples with outputs, whose likelihood this is about.")
    modules = find_modules(base.model, paths)
    sums: dict[str, Tensor] = {}
    alone = [one for batch in batches(chosen, base.tokens, PROMPT) for one in batch.apart()]
    for done, example in enumerate(alone):
        base.progress(done / len(alone))
        for path, x, g in answer_scores(modules, partial(_log_likelihood, base, example)):
            squares = (g.T.float() @ x.float()).square_().mean(0).double()
            sums[path] = sums[path] + squares if path in sums else squares
    return {path: (total / len(alone)).float().cpu().numpy() for path, total in sums.items()}


def _log_likelihood(base: RunningBase, example: Batch) -> Tensor:
    device = next(base.model.parameters()).device
    logs = base.logits(example.ids.to(device))[:, :-1].float().log_softmax(-1)
    answers = logs.gather(-1, example.ids[:, 1:, None].to(device))[..., 0]
    return (answers * example.is_answer[:, 1:].to(answers)).sum()
