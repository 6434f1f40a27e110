"""How probable a causal language model makes right answers, and which it gives under greedy decoding, in about one
forward pass for each example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lora.examples import Example
from lora.lazy_torch import torch
from lora.runtime.text import LINE, MAX_TOKENS, together

if TYPE_CHECKING:
    from lora.runtime.probe import RunningBase

MORE_TOKENS = 8  # that an answer may have beyond those of the right one, for a model may spell it with other tokens

BLANKS = " \t"


@dataclass(frozen=True)
class Answer:
    """What a model makes of an example.

    Attributes:
        loss: −log p per token of the right answer and of what ends it.
        is_exact: whether its greedy answer is the right one.
    """

    loss: float
    is_exact: bool


@dataclass
class _Open:
    """An example whose greedy answer may still become the right one.

    Attributes:
        prompt, given, draft: token ids: of the question, generated so far, and guessed to follow.
        most: how many tokens the answer may have.
    """

    index: int
    answer: str
    prompt: list[int]
    draft: list[int]
    most: int
    given: list[int] = field(default_factory=list)

    @property
    def tokens(self) -> list[int]:
        """What the model reads in order to judge the draft, and to say what follows its last token but one."""
        return self.prompt + self.given + self.draft[:-1]


def exactly_answered(base: RunningBase, examples: Sequence[Example], prompt: str) -> list[bool]:
    """Return for every example whether the greedy answer is its output; see `answers`."""
    return [answer.is_exact for answer in answers(base, examples, prompt)]


def answers(base: RunningBase, examples: Sequence[Example], prompt: str) -> list[Answer]:
    """Return of every example how probable its output is, and whether it is the greedy answer.

    An answer ends with the token that ends texts, or with a line; one that has several lines itself with its last.
    Space around it does not count. Greedy decoding with the right answer as the draft of speculative decoding
    (arXiv:2211.17192, section 2, at temperature 0): one pass says what the model would generate after each of its
    tokens. An example is given up at the first token that makes it wrong; where the model spells the right text with
    other tokens, it goes on from there.

    Args:
        base: with what its adapters have been set to.
        examples: all with outputs.
        prompt: as for `lora.runtime.text.batches`.
    """
    found: dict[int, Answer] = {}
    losses: dict[int, float] = {}
    rows = [_opened(base, i, example, prompt) for i, example in enumerate(examples)]
    while rows:
        going_on = []
        rows.sort(key=lambda row: len(row.tokens))
        for batch in together(rows, lambda row: (1, len(row.tokens))):
            for row, (predicted, loss) in zip(batch, _predicted(base, batch), strict=True):
                losses.setdefault(row.index, loss)  # the first draft is the whole answer
                verdict = _accept(base, row, predicted)
                if verdict is None:
                    going_on.append(row)
                else:
                    found[row.index] = Answer(losses[row.index], verdict)
        rows = going_on
    return [found[i] for i in range(len(examples))]


def _opened(base: RunningBase, index: int, example: Example, prompt: str) -> _Open:
    answer = (example.output or "").strip()
    draft = _drafted(base, " " + answer)[:MAX_TOKENS]
    question = base.tokens.prompt(prompt.replace(LINE, example.input))[-MAX_TOKENS:]
    return _Open(index, answer, question, draft, len(draft) + MORE_TOKENS)


def _drafted(base: RunningBase, text: str) -> list[int]:
    """Return the tokens of a text and one that may follow it: where no token ends texts, that of a new line."""
    end = [base.tokens.end] if base.tokens.end is not None else base.tokens.answer("\n")[-1:]
    return [*(base.tokens.answer(text) if text else []), *end]


def _accept(base: RunningBase, row: _Open, found: Sequence[int]) -> bool | None:
    """Take over what the model generates along the draft; return whether the example is right, None if still open."""
    begun = ""
    for token, drafted in zip(found, row.draft, strict=True):
        if token == base.tokens.end:
            return base.tokens.text(row.given).strip() == row.answer
        row.given.append(token)
        text = base.tokens.text(row.given).lstrip(BLANKS)
        if text.startswith(row.answer) and text[len(row.answer) :].lstrip(BLANKS).startswith("\n"):
            return True
        begun = text.rstrip(BLANKS).rstrip("\ufffd")  # half of a character
        if not row.answer.startswith(begun) or len(row.given) >= row.most:
            return False
        if token != drafted:
            break
    row.draft = _drafted(base, row.answer[len(begun) :])
    return None


def _predicted(base: RunningBase, rows: Sequence[_Open]) -> list[tuple[list[int], float]]:
    """Return of every row the most likely token after each prefix of its draft, and −log p per token of the draft.

    Rows are filled up on the right, where a causal model does not look: no mask is needed.
    """
    ids = torch.zeros(len(rows), max(len(row.tokens) for row in rows), dtype=torch.long)
    for place, row in zip(ids, rows, strict=True):
        place[: len(row.tokens)] = torch.tensor(row.tokens)
    device = next(base.model.parameters()).device
    with torch.no_grad():
        logits = base.logits(ids.to(device))
    found = []
    for i, row in enumerate(rows):
        part = logits[i, len(row.tokens) - len(row.draft) : len(row.tokens)].float()
        counted = len(row.draft) - (base.tokens.end is None)  # a new line is not the only end of a text
        wanted = torch.tensor(row.draft[:counted], device=device)
        loss = torch.nn.functional.cross_entropy(part[:counted], wanted) if counted else part.new_zeros(())
        found.append((part.argmax(-1).tolist(), float(loss)))
    return found
