"""Judge the values of an adapter's tensors, reading its file once in small pieces."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from typing import BinaryIO

import numpy as np

from lora.binding import listed
from lora.errors import InvalidAdapter, Problem
from lora.header import WEIGHTS_NAME, Header, TensorInfo
from lora.layout import Layout, ModuleLayout

CHUNK_BYTES = 4 << 20

# Of each float: how to read its bits, and the bits of +infinity. Without the sign, larger bits are larger numbers, and
# NaN lies above infinity; so one maximum answers both questions.
_FLOATS: dict[str, tuple[str, int]] = {
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F32": ("<u4", 0x7F80_0000),
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
}


@dataclass(frozen=True)
class ValueReport:
    """What only the tensors' values tell.

    Attributes:
        tensor_digest: sha256 over name, dtype, shape and bytes of all tensors in the order of names; metadata ignored.
        warnings: [{code, message}].
    """

    tensor_digest: str
    warnings: list[dict[str, str]]


def check_values(path: str | PathLike[str], header: Header, layout: Layout) -> ValueReport:
    """Read all tensors once: digest, NaN and infinity, factors that are zero.

    Args:
        path: the safetensors file that `header` was read from.
    Raises: InvalidAdapter: `not_finite`, `all_zero`, `truncated`.
    """
    digest = hashlib.sha256()
    problems, zero = [], set()
    with open(path, "rb") as file:
        for name in sorted(header.tensors):
            tensor = header.tensors[name]
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            peak = _peak(file, header.data_offset, tensor, digest)
            if peak == 0:
                zero.add(name)
            elif tensor.dtype in _FLOATS and peak >= _FLOATS[tensor.dtype][1]:
                message = "It holds NaN or infinity: training diverged or overflowed. Send a sound checkpoint."
                problems.append(Problem("not_finite", f"{WEIGHTS_NAME}: {name}", message))
    if problems:
        raise InvalidAdapter(problems)
    return ValueReport(digest.hexdigest(), _zero_warnings(layout, zero))


def _peak(file: BinaryIO, data_offset: int, tensor: TensorInfo, digest: "hashlib._Hash") -> int:
    """Return the largest bits of a float tensor without their sign; 1 for other tensors."""
    peak = 0
    for chunk in _chunks(file, data_offset + tensor.start, tensor.end - tensor.start):
        digest.update(chunk)
        if tensor.dtype in _FLOATS:
            bits = np.frombuffer(chunk, dtype=_FLOATS[tensor.dtype][0])
            peak = max(peak, int((bits & np.iinfo(bits.dtype).max >> 1).max()))
    return peak if tensor.dtype in _FLOATS else 1


def _chunks(file: BinaryIO, start: int, size_bytes: int) -> Iterator[bytes]:
    file.seek(start)
    while size_bytes:
        chunk = file.read(min(CHUNK_BYTES, size_bytes))
        if len(chunk) < min(CHUNK_BYTES, size_bytes):
            raise InvalidAdapter([Problem("truncated", WEIGHTS_NAME, "The file ends inside a tensor. Send it again.")])
        size_bytes -= len(chunk)
        yield chunk


def _zero_warnings(layout: Layout, zero: set[str]) -> list[dict[str, str]]:
    idle = [module.path for module in layout.modules.values() if _is_idle(module, zero)]
    if len(idle) == len(layout.modules):
        message = "In every module one of the factors is zero: it changes nothing. Was it saved before it was trained?"
        raise InvalidAdapter([Problem("all_zero", WEIGHTS_NAME, message)])
    if not idle:
        return []
    message = f"{len(idle)} of {len(layout.modules)} modules are zero and change nothing: {listed(idle)}."
    return [{"code": "partly_zero", "message": message}]


def _is_idle(module: ModuleLayout, zero: set[str]) -> bool:
    """Return whether s·B·A is zero and nothing else of the module acts."""
    vectors = [name for name in (module.bias_name, module.magnitude_name) if name and name not in zero]
    return not vectors and (module.a_name in zero or module.b_name in zero)
