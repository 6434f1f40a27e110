"""Our own parser of safetensors headers: the library's accepts much that a registry must refuse.

Format: 8 bytes little-endian length n, n bytes of JSON, then the tensors' bytes without holes
(https://github.com/huggingface/safetensors, "Format").
"""

import re
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO, NoReturn

from lora.errors import InvalidAdapter, Problem
from lora.formats import SNIFF_BYTES, recognise
from lora.strict_json import parse_object, plain, shown

WEIGHTS_NAME = "adapter_model.safetensors"
MAX_HEADER_BYTES = 10_000_000
MAX_METADATA_BYTES = 1_000_000
MAX_TENSORS = 100_000
MAX_NAME = 500
MAX_DIMS = 8
REWRITE = "Write the file again with safetensors."

# Only what attribute and module names are made of: no path, markup or direction marks can hide in one.
_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", re.ASCII)
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies. `start` and `end` are bytes from the beginning of the data section."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """A checked header: tensors in file order, without holes. `data_offset` is bytes from the file's start."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    data_offset: int


def read_header(stream: BinaryIO, size_bytes: int, where: str = WEIGHTS_NAME) -> Header:
    """Read and check the header of a safetensors file, without its tensors.

    Args:
        stream: at the file's beginning; read forward only, at most `MAX_HEADER_BYTES`.
        size_bytes: size of the whole file.
        where: the file's name in problems.
    Raises: InvalidAdapter: the file is something else, or its header breaks a rule.
    """
    length, start = _read_length(stream, size_bytes, where)
    raw = start + stream.read(length - len(start))
    if len(raw) < length:
        _refuse(where, "truncated", f"The file ends inside its header, after {8 + len(raw)} bytes. Send it again.")
    if not raw.startswith(b"{") or raw.rstrip(b" ")[-1:] != b"}":
        _refuse(where, "bad_header", "The header must begin with { and end with }, with nothing but blanks behind.")
    entries = parse_object(raw, where)
    metadata = _checked_metadata(entries.pop("__metadata__", {}), f"{where}: __metadata__")
    if not entries:
        _refuse(where, "no_tensors", "The file holds no tensors. Was the adapter saved before it was trained?")
    if len(entries) > MAX_TENSORS:
        _refuse(where, "too_many_tensors", f"It names {len(entries)} tensors; at most {MAX_TENSORS} are accepted.")
    tensors = _checked_tensors(entries, where)
    _check_tiling(tensors, size_bytes - 8 - length, where)
    return Header(tensors, metadata, 8 + length)


def _refuse(where: str, code: str, message: str) -> NoReturn:
    raise InvalidAdapter([Problem(code, where, message)])


def _read_length(stream: BinaryIO, size_bytes: int, where: str) -> tuple[int, bytes]:
    """Return the header's length and the bytes of it that were read already."""
    start = stream.read(min(SNIFF_BYTES, size_bytes))
    if not start:
        _refuse(where, "empty_file", "The file is empty. Send it again.")
    length = int.from_bytes(start[:8], "little")
    plausible = len(start) > 8 and 2 <= length <= min(MAX_HEADER_BYTES, size_bytes - 8)
    if not (plausible and start[8:9] == b"{"):
        disguised = recognise(start, where)
        if disguised:
            raise InvalidAdapter([disguised])
    if len(start) <= 8:
        _refuse(where, "truncated", f"The file has only {len(start)} bytes. Send it again.")
    if length > MAX_HEADER_BYTES:
        claim = f"It claims a header of {length} bytes; at most {MAX_HEADER_BYTES} are read."
        _refuse(where, "bad_header", f"{claim} Is it a safetensors file at all?")
    if length > size_bytes - 8:
        _refuse(where, "truncated", f"Its header should have {length} bytes, the file has {size_bytes}. Send it again.")
    return length, start[8 : 8 + length]


def _checked_metadata(metadata: object, where: str) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _refuse(where, "bad_metadata", f"The metadata must be an object of texts. {REWRITE}")
    size = sum(len(key) + len(value) for key, value in metadata.items())
    if size > MAX_METADATA_BYTES:
        _refuse(where, "bad_metadata", f"The metadata has {size} characters; at most {MAX_METADATA_BYTES} are kept.")
    return metadata


def _checked_tensors(entries: dict[str, Any], where: str) -> dict[str, TensorInfo]:
    tensors, problems = {}, []
    for name, entry in entries.items():
        checked = _checked_tensor(name, entry)
        if isinstance(checked, TensorInfo):
            tensors[name] = checked
        else:
            problems.append(Problem(checked[0], f"{where}: {plain(name)}", checked[1]))
    if problems:
        raise InvalidAdapter(problems)
    return dict(sorted(tensors.items(), key=lambda item: item[1].start))


def _checked_tensor(name: str, entry: object) -> TensorInfo | tuple[str, str]:
    """Return the tensor, or the code and message of what is wrong with it."""
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        return "bad_name", f"A tensor name is 1 to {MAX_NAME} of A-Z a-z 0-9 _ - in parts joined by single dots."
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        return "bad_tensor", f"It must have exactly dtype, shape and data_offsets. {REWRITE}"
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        return "bad_dtype", f"{shown(str(dtype))} is no dtype of safetensors. {REWRITE}"
    if not _are_counts(shape) or 0 in shape or len(shape) > MAX_DIMS:
        return "bad_shape", f"Its shape is not a list of 1 to {MAX_DIMS} positive integers. {_scalar_hint(name)}"
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        return "bad_offsets", f"Its data_offsets are not [begin, end] with begin ≤ end. {REWRITE}"
    if prod(shape) * BITS[dtype] != 8 * (offsets[1] - offsets[0]):
        return "wrong_size", f"{dtype} of shape {shape} does not fill {offsets[1] - offsets[0]} bytes. {REWRITE}"
    return TensorInfo(dtype, tuple(shape), offsets[0], offsets[1])


def _are_counts(values: object) -> bool:
    return (
        isinstance(values, list)
        and len(values) > 0
        and all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values)
    )


def _scalar_hint(name: str) -> str:
    if name.endswith(".alpha"):
        return "This looks like the kohya format; convert the adapter to PEFT's."
    return REWRITE


def _check_tiling(tensors: dict[str, TensorInfo], data_bytes: int, where: str) -> None:
    """Check that the tensors, in file order, fill the data section exactly."""
    end = 0
    for name, tensor in tensors.items():
        if tensor.start != end:
            kind = "overlaps the one before" if tensor.start < end else "leaves a hole before it"
            _refuse(f"{where}: {name}", "bad_offsets", f"This tensor {kind} (byte {tensor.start}). {REWRITE}")
        end = tensor.end
    if end > data_bytes:
        _refuse(where, "truncated", f"The tensors need {end} bytes, and {data_bytes} are there. Send the file again.")
    if end < data_bytes:
        _refuse(where, "trailing_bytes", f"{data_bytes - end} bytes follow the last tensor. {REWRITE}")
