"""The samples of stored revisions."""

import json

from lora import samples
from lora.samples import MAX_BYTES, MAX_SAMPLES, Sample
from lora.samples import SAMPLES_NAME as PATH
from registry.errors import InvalidSamples
from registry.models import Revision
from registry.storage import read_blob

__all__ = ["MAX_BYTES", "PATH", "Sample", "dump_samples", "parse_samples", "read_samples", "union"]


def parse_samples(raw: bytes) -> list[Sample]:
    """The samples in order. Raises: InvalidSamples naming the line and what is expected there."""
    try:
        return samples.parse_samples(raw)
    except samples.InvalidSamples as error:
        raise InvalidSamples(str(error)) from error


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
