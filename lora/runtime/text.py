"""Examples as tokens: prompts in front, answers behind, in batches of one length, so that nothing has to be padded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from lora.examples import Example
from lora.lazy_torch import torch

if TYPE_CHECKING:
    from torch import Tensor

BATCH_TOKENS = 512  # the logits of a vocabulary of 50,000 are 100 MB then
PASS_TOKENS = 32  # a pass reads all weights, which takes about as long as to compute with so many tokens more
MAX_TOKENS = 1024  # of an example; beyond that the beginning of its prompt is cut off
LINE = "{line}"
PROMPT = "{line}\nAnswer:"

T = TypeVar("T")


@dataclass(frozen=True)
class Tokens:
    """How a tokenizer turns text into ids.

    Attributes:
        prompt: of the beginning of a text, with the marks that a model expects there.
        answer: of what follows, without any.
        end: what ends an answer; None where the tokenizer has no such token.
        text: back from ids, without such marks.
    """

    prompt: Callable[[str], list[int]]
    answer: Callable[[str], list[int]]
    end: int | None
    text: Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Batch:
    """Examples with equally many tokens, on the CPU.

    Attributes:
        ids: (b, t).
        is_answer: (b, t) of bool: which tokens a model has to find.
        prompts: how many tokens of each are the prompt, (b,).
    """

    ids: Tensor
    is_answer: Tensor
    prompts: Tensor

    @property
    def is_prompt(self) -> Tensor:
        """Which tokens are the prompt's, (b, t) of bool."""
        return torch.arange(self.ids.shape[1], device="cpu") < self.prompts[:, None]

    def apart(self) -> list[Batch]:
        """Return the examples one by one."""
        rows = [slice(k, k + 1) for k in range(len(self.ids))]
        return [Batch(self.ids[row], self.is_answer[row], self.prompts[row]) for row in rows]


def batches(examples: Sequence[Example], tokens: Tokens, prompt: str) -> list[Batch]:
    """Encode examples; those without an output are prompts alone.

    Without padding an example's numbers do not depend on what it is computed with, and no mask is needed anywhere.

    Args:
        prompt: what a model is asked, with `{line}` for an example's input. A space stands before the answer.
    """
    by_length: dict[int, list[tuple[list[int], int]]] = {}
    for example in examples:
        question = tokens.prompt(prompt.replace(LINE, example.input))
        answer = [] if example.output is None else tokens.answer(" " + example.output)
        if example.output is not None and tokens.end is not None:
            answer.append(tokens.end)
        answer = answer[: MAX_TOKENS - 1]
        question = question[-(MAX_TOKENS - len(answer)) :]
        by_length.setdefault(len(question) + len(answer), []).append((question + answer, len(question)))
    encoded = []
    for length, rows in sorted(by_length.items()):
        size = max(1, BATCH_TOKENS // length)
        encoded += [_batch(rows[start : start + size]) for start in range(0, len(rows), size)]
    return encoded


def joined(task: Sequence[Batch]) -> Iterator[Batch]:
    """Yield the same examples in fewer passes: batches of about one length together, in their order."""
    yield from map(padded, together(task, lambda batch: batch.ids.shape))


def together(items: Iterable[T], shape: Callable[[T], Sequence[int]]) -> Iterator[list[T]]:
    """Yield items in their order, each with those before it where to fill up costs less than another pass.

    Args:
        shape: of an item, its rows, and the tokens of each.
    """
    part: list[T] = []
    rows = width = 0
    for item in items:
        more, length = shape(item)
        wider = max(width, length)
        filled = rows * (wider - width) + more * (wider - length)
        if part and (filled > PASS_TOKENS or (rows + more) * wider > BATCH_TOKENS):
            yield part
            part, rows, wider = [], 0, length
        part.append(item)
        rows, width = rows + more, wider
    if part:
        yield part


def padded(part: Sequence[Batch]) -> Batch:
    """Return batches as one, filled up on the right, where a causal model does not look: no mask is needed.

    What fills up is neither prompt nor answer.
    """

    def beside(tensors: Sequence[Tensor]) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence([row for one in tensors for row in one], batch_first=True)

    ids, is_answer = beside([one.ids for one in part]), beside([one.is_answer for one in part])
    return Batch(ids, is_answer, torch.cat([one.prompts for one in part]))


def _batch(rows: Sequence[tuple[list[int], int]]) -> Batch:
    ids = torch.tensor([ids for ids, _ in rows], device="cpu")
    prompts = torch.tensor([prompt for _, prompt in rows], device="cpu")
    return Batch(ids, torch.arange(ids.shape[1], device="cpu") >= prompts[:, None], prompts)
