"""Config and layout of stored adapters."""

from functools import lru_cache
from typing import BinaryIO

from lora.config import LoraConfig, parse_config
from lora.header import read_header
from lora.layout import Layout, read_layout
from registry.models import Blob
from registry.storage import open_blob, read_blob

KEPT_LAYOUTS = 128


def describe_file(weights: BinaryIO, size_bytes: int, config: Blob) -> tuple[LoraConfig, Layout]:
    """Of a weights file that is open at its beginning. Raises: InvalidAdapter, BlobDamaged, StoreUnavailable."""
    parsed = parse_config(read_blob(config))
    return parsed, read_layout(read_header(weights, size_bytes), parsed)


def stored_layout(weights: Blob, config: Blob) -> tuple[LoraConfig, Layout]:
    """Of a weights file in the store, of which the header is read. Raises: as `describe_file`.

    Kept, because a form asks after every key. Who computes with the tensors reads the verified file again.
    """
    return _stored_layout(weights.sha256, weights.size_bytes, config.sha256)


@lru_cache(maxsize=KEPT_LAYOUTS)
def _stored_layout(weights: str, size_bytes: int, config: str) -> tuple[LoraConfig, Layout]:
    with open_blob(Blob(sha256=weights)) as stream:
        return describe_file(stream, size_bytes, Blob(sha256=config))
