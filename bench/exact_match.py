"""Which lines a causal language model answers exactly under greedy decoding, in about one forward pass."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from examples.smollm2 import MAX_NEW_TOKENS, prompt_of

BATCH_TOKENS = 4096


@dataclass(frozen=True)
class Line:
    """One question of a task and its only right answer."""

    task: str
    question: str
    answer: str


@dataclass
class _Open:
    """A line whose greedy answer may still become the right one.

    Attributes:
        prompt, given, draft: token ids: of the question, generated so far, and guessed to follow.
    """

    index: int
    answer: str
    prompt: list[int]
    draft: list[int]
    given: list[int] = field(default_factory=list)

    @property
    def tokens(self) -> list[int]:
        """What the model reads in order to judge the draft, and to say what follows its last token but one."""
        return self.prompt + self.given + self.draft[:-1]


@torch.inference_mode()
def exactly_answered(model: Any, tokenizer: Any, lines: Sequence[Line]) -> list[bool]:
    """Return for every line whether its greedy answer, up to the first newline, is the right one.

    Greedy decoding with the right answer as the draft of speculative decoding: one pass says what the model would
    generate after each of its tokens. A line is given up at the first token that makes it wrong; where the model
    spells the right text with other tokens, it goes on from there. Equals `examples.smollm2.answer` up to rounding.
    """
    ends = tokenizer.eos_token_id
    rows = [
        _Open(i, line.answer, _ids(tokenizer, prompt_of(line.question)), [*_ids(tokenizer, " " + line.answer), ends])
        for i, line in enumerate(lines)
    ]
    right = [False] * len(lines)
    while rows:
        going_on = []
        for batch in _batches(rows):
            for row, found in zip(batch, _predicted(model, batch), strict=True):
                verdict = _accept(row, found, tokenizer)
                if verdict is None:
                    going_on.append(row)
                else:
                    right[row.index] = verdict
        rows = going_on
    return right


def _accept(row: _Open, found: Sequence[int], tokenizer: Any) -> bool | None:
    """Take over what the model generates along the draft; return whether the line is right, None if still open."""
    for token, drafted in zip(found, row.draft, strict=True):
        row.given.append(token)
        text = tokenizer.decode(row.given, skip_special_tokens=True)
        if token == tokenizer.eos_token_id or "\n" in text or len(row.given) == MAX_NEW_TOKENS:
            return text.strip().split("\n")[0].strip() == row.answer
        begun = text.strip().rstrip("\ufffd")  # half of a character
        if not row.answer.startswith(begun):
            return False
        if token != drafted:
            break
    row.draft = [*_ids(tokenizer, row.answer[len(begun) :]), tokenizer.eos_token_id]
    return None


def _predicted(model: Any, rows: Sequence[_Open]) -> list[list[int]]:
    """Return of every row the most likely token after each prefix of its draft.

    Rows are filled up on the right, where a causal model does not look: no mask is needed.
    """
    ids = torch.zeros(len(rows), max(len(row.tokens) for row in rows), dtype=torch.long)
    for place, row in zip(ids, rows, strict=True):
        place[: len(row.tokens)] = torch.tensor(row.tokens)
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    judged = [
        states[len(row.tokens) - len(row.draft) : len(row.tokens)] for states, row in zip(hidden, rows, strict=True)
    ]
    best = model.lm_head(torch.cat(judged)).argmax(-1)
    return [part.tolist() for part in best.split([len(row.draft) for row in rows])]


def _batches(rows: Sequence[_Open]) -> Iterator[list[_Open]]:
    """Yield rows of similar length together."""
    batch: list[_Open] = []
    for row in sorted(rows, key=lambda row: len(row.tokens)):
        if batch and (len(batch) + 1) * len(row.tokens) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    yield batch


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
