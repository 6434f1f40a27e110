"""`samples.jsonl`: what an expert is for, shown by up to 1,000 inputs (and outputs)."""

import json

from registry.errors import InvalidSamples
from registry.models import Revision
from registry.storage import read_blob

MAX_SAMPLES = 1000
MAX_BYTES = 16 * 1024**2
MAX_CHARS = 20_000
PATH = "samples.jsonl"

Sample = dict[str, str]


def parse_samples(raw: bytes) -> list[Sample]:
    """The samples in order. Raises: InvalidSamples naming the line and what is expected there."""
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
    """False for lone surrogates, which JSON escapes can smuggle in and no database stores."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def read_samples(revision: Revision) -> list[Sample]:
    """The samples of a stored revision; none where it has no file."""
    file = revision.file(PATH)
    return parse_samples(read_blob(file.blob)) if file else []


def dump_samples(samples: list[Sample]) -> bytes:
    """The file that `parse_samples` reads back."""
    return b"".join(json.dumps(sample, ensure_ascii=False).encode() + b"\n" for sample in samples)


def union(revisions: list[Revision]) -> list[Sample]:
    """The samples of several revisions, each once, taken in turns so that a cut at the limit is fair."""
    queues = [read_samples(revision) for revision in revisions]
    seen: dict[str, Sample] = {}
    for position in range(max(map(len, queues), default=0)):
        for queue in queues:
            if position < len(queue):
                seen.setdefault(queue[position]["input"], queue[position])
    return list(seen.values())[:MAX_SAMPLES]
