"""Hidden states that a client sends: one safetensors file, module path → (t, d_in), checked as it is read."""

from typing import Any, BinaryIO

import numpy as np

from lora.errors import InvalidAdapter
from lora.float_arrays import DTYPES, float_arrays
from lora.header import TensorInfo, read_header
from lora.module_routers import States
from registry.errors import InvalidVectors, TooLarge
from retrieval.module_routing import Candidate

MAX_BYTES = 64 * 1024**2
MAX_TOKENS = 1024
PART = "hidden_states"


def read_states(stream: BinaryIO, size_bytes: int) -> States:
    """The states in a file, as float32. Raises: TooLarge; InvalidVectors, naming what is wrong with which tensor."""
    if size_bytes > MAX_BYTES:
        raise TooLarge(f"{PART} has {size_bytes} bytes; at most {MAX_BYTES}. Send fewer tokens, or half precision.")
    try:
        header = read_header(stream, size_bytes, PART)
    except InvalidAdapter as error:
        raise _invalid([problem.as_json() for problem in error.problems]) from error
    if not header.tensors:
        raise _invalid([{"code": "empty", "where": PART, "message": "It holds no tensors."}])
    problems = [found for name, info in header.tensors.items() if (found := _problem(name, info))]
    if problems:
        raise _invalid(problems)
    stream.seek(header.data_offset)
    states = float_arrays(header, stream.read())
    for name, x in states.items():
        if not np.isfinite(x).all():
            raise _invalid([{"code": "not_finite", "where": name, "message": "It holds NaN or infinite values."}])
    if not any(x.any() for x in states.values()):
        raise _invalid(
            [{"code": "all_zero", "where": PART, "message": "All values are zero: that is nobody's question."}]
        )
    return states


def _problem(name: str, info: TensorInfo) -> dict[str, str] | None:
    fits = len(info.shape) == 2 and 1 <= info.shape[0] <= MAX_TOKENS and info.shape[1] >= 1 and info.dtype in DTYPES
    text = f"It must be (t, d_in) of floats, one row per token, at most {MAX_TOKENS}; it is {info.dtype} "
    return None if fits else {"code": "shape", "where": name, "message": f"{text}{list(info.shape)}."}


def check_fit(states: States, found: list[Candidate]) -> None:
    """Compare with the experts that are in question. Raises: InvalidVectors: other widths, or nothing in common."""
    widths = {path: vectors.shape[-1] for one in found for path, vectors in one.vectors.items()}
    wrong = [path for path, x in states.items() if path in widths and widths[path] != x.shape[1]]
    if wrong:
        text = "What enters this module of the experts has {} values per token, not {}."
        raise _invalid(
            [
                {"code": "width", "where": path, "message": text.format(widths[path], states[path].shape[1])}
                for path in sorted(wrong)
            ]
        )
    if widths and not widths.keys() & states.keys():
        text = f"No expert in question adapts any of these modules, but such as {min(widths)}."
        raise _invalid([{"code": "unknown_modules", "where": PART, "message": text}])


def _invalid(problems: list[Any]) -> InvalidVectors:
    first = problems[0]
    return InvalidVectors(f"{first['where']}: {first['message']}", detail={"problems": problems[:20]})
