"""PHATGOOSE gates that a contributor sends along: one vector per adapted module."""

import io
from pathlib import Path

import numpy as np

from lora.errors import InvalidAdapter, Problem
from lora.float_arrays import float_arrays
from lora.header import read_header
from lora.layout import Layout

GATES = "gates.safetensors"
FLOATS = ("F64", "F32", "F16", "BF16")


def check_gates(path: Path, size_bytes: int, layout: Layout) -> None:
    """Keys are module paths of the adapter, values float vectors (d_in,); only the header is read, `size_bytes` is
    the size of the whole file. Raises: InvalidAdapter."""
    with path.open("rb") as stream:
        header = read_header(stream, size_bytes, GATES)
    problems = []
    for name, info in header.tensors.items():
        module = layout.modules.get(name)
        if module is None:
            problems.append(Problem("gate_unknown_module", name, "The adapter has no LoRA on this module."))
        elif info.shape != (module.d_in,) or info.dtype not in FLOATS:
            message = f"A gate is a float vector of {module.d_in} values, not {info.dtype} {list(info.shape)}."
            problems.append(Problem("gate_shape", name, message))
    if problems:
        raise InvalidAdapter(problems)


def check_gate_values(data: bytes) -> None:
    """Every value is finite, and some are not 0: gates of zeros are those that training begins with.

    Args:
        data: of a file that `check_gates` has let pass.
    Raises: InvalidAdapter.
    """
    header = read_header(io.BytesIO(data), len(data), GATES)
    gates = float_arrays(header, data[header.data_offset :])
    broken = [name for name, gate in gates.items() if not np.isfinite(gate).all()]
    problems = [Problem("not_finite", name, "This gate holds NaN or infinite values.") for name in sorted(broken)]
    if not problems and not any(gate.any() for gate in gates.values()):
        problems = [Problem("all_zero", GATES, "Every gate is zero, as before training. Send trained ones, or none.")]
    if problems:
        raise InvalidAdapter(problems)
