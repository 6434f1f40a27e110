"""Our own parser of safetensors headers: the library's accepts much that a registry must refuse."""

from dataclasses import dataclass
from typing import BinaryIO


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies. `start` and `end` are bytes from the beginning of the data section."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """A checked header: tensors in file order, without holes. `data_offset` is in bytes from the file's start."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    data_offset: int


def read_header(stream: BinaryIO, size_bytes: int) -> Header:
    """Read and check the header of a safetensors file."""
    raise NotImplementedError
