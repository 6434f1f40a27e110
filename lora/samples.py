"""`samples.jsonl`: what an adapter is for, shown by up to 1,000 inputs (and outputs)."""

from __future__ import annotations

import json

from lora.errors import LoraError
from lora.examples import Example

SAMPLES_NAME = "samples.jsonl"
MAX_SAMPLES = 1000
MAX_BYTES = 16 * 1024**2
MAX_CHARS = 20_000

Sample = dict[str, str]


class InvalidSamples(LoraError):
    """The file is not one sample per line."""

    code = "invalid_samples"


def parse_samples(raw: bytes) -> list[Sample]:
    """Return the samples in order. Raises: InvalidSamples: it names the line and what is expected there."""
    if len(raw) > MAX_BYTES:
        raise InvalidSamples(f"samples.jsonl has {len(raw)} bytes; at most {MAX_BYTES}.")
    try:
        lines = raw.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InvalidSamples(f"samples.jsonl is not UTF-8 (byte {error.start}).") from error
    samples = [_parse_line(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not samples:
        raise InvalidSamples('samples.jsonl is empty. Write one {"input": "…"} per line, or leave the file out.')
    if len(samples) > MAX_SAMPLES:
        raise InvalidSamples(f"samples.jsonl has {len(samples)} lines; at most {MAX_SAMPLES}. Send a selection.")
    return samples


def as_examples(samples: list[Sample]) -> tuple[Example, ...]:
    """Return samples as methods that run the base look at them."""
    return tuple(Example(sample["input"], sample.get("output") or None) for sample in samples)


def _parse_line(number: int, line: str) -> Sample:
    where = f"samples.jsonl line {number}"
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidSamples(f'{where} is not JSON. Each line is {{"input": "…", "output": "…"}}.') from error
    if not isinstance(row, dict) or not set(row) <= {"input", "output"}:
        raise InvalidSamples(f'{where}: expected an object with "input" and optionally "output", nothing else.')
    for key, value in row.items():
        if not isinstance(value, str):
            raise InvalidSamples(f'{where}: "{key}" must be a string.')
        if len(value) > MAX_CHARS or "\0" in value or not _encodable(value):
            raise InvalidSamples(f'{where}: "{key}" is longer than {MAX_CHARS} characters or not valid text.')
    if not row.get("input", "").strip():
        raise InvalidSamples(f'{where}: "input" is missing or blank.')
    return row


def _encodable(text: str) -> bool:
    """Return False for lone surrogates, which JSON escapes can smuggle in and no database stores."""
    return not any("\ud800" <= char <= "\udfff" for char in text)
