"""Gradient descent on a few vectors inside a frozen model, by the answers of labelled samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import numpy as np

from lora.errors import LoraError
from lora.examples import Example
from lora.lazy_torch import torch
from lora.runtime.probe import RunningBase
from lora.runtime.text import PROMPT, Batch, batches, padded

if TYPE_CHECKING:
    from torch import Tensor

LEARNING_RATE = 5e-3
WARM_UP = 0.06  # of the steps
NO_SAMPLES = "There are no samples with outputs, which gates learn from."
BATCH = 4  # samples per step: what two cores train in a few minutes


class NotTrainable(LoraError):
    """Gates cannot be trained on what is there."""

    code = "not_trainable"


def encoded(base: RunningBase, examples: Sequence[Example]) -> list[Batch]:
    """Return the labelled ones of some examples as single samples. Raises: NotTrainable: there are none."""
    labelled = [example for example in examples if example.output]
    found = [one for batch in batches(labelled, base.tokens, PROMPT) for one in batch.apart()]
    if not found:
        raise NotTrainable(NO_SAMPLES)
    return found


def descend(
    base: RunningBase,
    gates: Sequence[Tensor],
    samples: Sequence[Batch],
    steps: int,
    seed: int,
    *,
    rate: float,
    during: Callable[[Batch, Sequence[int]], AbstractContextManager[None]] = lambda batch, chosen: nullcontext(),
) -> list[float]:
    """Change gates by so many steps of AdamW, without decay; the rate rises over the first 6 % and stays.

    Args:
        gates: leaves that the base's answers depend on. samples: single ones; `seed` decides their order.
        rate: of every step after the first ones.
        during: what to be in while the samples of a step, at these places of `samples`, are answered.
    Returns: the loss before every step: the mean of −log p per token of the answers.
    Raises: NotTrainable: a loss is not finite.
    """
    warm_up, losses = max(1, round(WARM_UP * steps)), []
    optimizer = torch.optim.AdamW(gates, lr=rate, weight_decay=0.0, foreach=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warm_up))
    for step, chosen in enumerate(_drawn(len(samples), steps, seed)):
        base.progress(step / steps)
        batch = padded([samples[i] for i in chosen])
        with torch.enable_grad(), during(batch, chosen):
            loss = answer_loss(base.logits, batch, gates[0].device)
        if not torch.isfinite(loss):
            raise NotTrainable("The loss of the samples is not finite with these adapters on the base.")
        torch.autograd.backward(loss, inputs=gates)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
    return losses


def answer_loss(logits: Callable[[Tensor], Tensor], batch: Batch, device: torch.device) -> Tensor:
    """Return the mean over all answer tokens of a batch of −log p."""
    ids, wanted = batch.ids.to(device), batch.is_answer[:, 1:].to(device)
    found = logits(ids)[:, :-1][wanted].float()
    return torch.nn.functional.cross_entropy(found, ids[:, 1:][wanted])


def _drawn(count: int, steps: int, seed: int) -> Iterator[list[int]]:
    """Yield the places of so many samples for each step, each of them once before any comes again."""
    draw, queue = np.random.Philox(seed), list[int]()
    for _ in range(steps):
        while len(queue) < BATCH:
            queue += np.argsort(draw.random_raw(count), kind="stable").tolist()
        chosen, queue = queue[:BATCH], queue[BATCH:]
        yield chosen
