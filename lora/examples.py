"""Examples of a task: what goes into a model and, where it is known, what should come out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lora.strict_json import is_storable

MAX_EXAMPLES = 256
MAX_CHARS = 4_000
MAX_INSTRUCTION_CHARS = 1_000
SHOTS = 5  # labelled samples that a base model is shown above a question


@dataclass(frozen=True)
class Example:
    """One line of a task; `output` is None where only the question is known."""

    input: str
    output: str | None = None

    schema: ClassVar[dict[str, Any]] = {
        "type": "object",
        "additionalProperties": False,
        "required": ["input"],
        "properties": {
            "input": {"type": "string", "minLength": 1, "maxLength": MAX_CHARS},
            "output": {"type": ["string", "null"], "maxLength": MAX_CHARS},
        },
    }
    max_items: ClassVar[int] = MAX_EXAMPLES

    @classmethod
    def from_json(cls, value: Any) -> Example:
        """Return the example that `{input, output?}` is.

        Raises: ValueError: what is wrong, to follow the example's name in a sentence.
        """
        if not isinstance(value, dict) or not set(value) <= {"input", "output"}:
            raise ValueError("must be an object with input and, where it is known, output")
        given, wanted = value.get("input"), value.get("output")
        if not isinstance(given, str) or not given.strip():
            raise ValueError("has no input: text that is not blank")
        if not isinstance(wanted, str | None):
            raise ValueError("has an output that is not text")
        if not all(_is_plain(text) for text in (given, wanted or "")):
            raise ValueError(f"has a text that is longer than {MAX_CHARS} characters, or is not valid text")
        return cls(given, wanted)


def _is_plain(text: str) -> bool:
    return len(text) <= MAX_CHARS and is_storable(text)


def lack_of_samples(*, labelled: bool, has_examples: bool) -> tuple[str, str]:
    """Return the code of an input without the samples that a method looks at, and what is said of it after its name.

    Args:
        labelled: whether the method looks at outputs, too.
        has_examples: whether its `examples` can stand in for them.
    """
    code, lacking = ("no_labels", "no samples with outputs") if labelled else ("no_samples", "no samples")
    return code, f"has {lacking}" + ("; give examples in params." if has_examples else ".")


def instruction_of(texts: Iterable[str]) -> str | None:
    """Return the first line that two or more inputs all have in common above other text; None where there is none."""
    inputs = set(texts)
    heads = [text.partition("\n") for text in inputs]
    lines = {head for head, _, _ in heads}
    if len(inputs) < 2 or len(lines) > 1 or not all(rest.strip() for _, _, rest in heads):
        return None
    [line] = lines
    return line if line.strip() and len(line) <= MAX_INSTRUCTION_CHARS else None


def below(instruction: str | None, examples: Sequence[Example]) -> list[Example]:
    """Return the examples with a line above each input; None changes nothing."""
    if instruction is None:
        return list(examples)
    return [Example(f"{instruction}\n{example.input}", example.output) for example in examples]


def drawn(examples: Sequence[Example], most: int, seed: int) -> list[Example]:
    """Return at most so many examples, in their order: all of them, or a random choice that the seed decides."""
    if len(examples) <= most:
        return list(examples)
    order = np.argsort(np.random.Philox(seed).random_raw(len(examples)))  # numpy guarantees its raw bits only
    return [examples[i] for i in sorted(order[:most])]


def in_turns(groups: Sequence[Sequence[Example]], most: int) -> list[Example]:
    """Return the distinct examples of several groups, taken in turns so that a cut at the end is fair."""
    longest = max(map(len, groups), default=0)
    turns = (group[turn] for turn in range(longest) for group in groups if turn < len(group))
    return list(dict.fromkeys(turns))[:most]
