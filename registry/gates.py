"""PHATGOOSE gates that a contributor sends along: one vector per adapted module."""

from pathlib import Path

from lora.errors import InvalidAdapter, Problem
from lora.header import read_header
from lora.layout import Layout

FLOATS = ("F64", "F32", "F16", "BF16")


def check_gates(path: Path, size_bytes: int, layout: Layout) -> None:
    """Keys are module paths of the adapter, values float vectors (d_in,); only the header is read, `size_bytes` is
    the size of the whole file. Raises: InvalidAdapter."""
    with path.open("rb") as stream:
        header = read_header(stream, size_bytes, "gates.safetensors")
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
