"""Vectors of several experts side by side: one tensor per module, a place per expert."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from lora.lazy_torch import torch
from lora.weights import write_header


def stack_vectors(sources: Sequence[Path], widths: Mapping[str, int], target: Path) -> None:
    """Write the vectors of all experts by module, zeros where an expert has none. One module at a time is in memory.

    Args:
        sources: a safetensors file per expert: module path → (d_in,), or (r, d_in) with any r.
        widths: path → d_in of the modules that are written, in their order.
        target: is given path → (n, d_in), or (n, largest r, d_in), float32.
    """
    with ExitStack() as stack, target.open("wb") as stream:
        files = [stack.enter_context(safe_open(source, framework="pt")) for source in sources]
        keys = [set(file.keys()) for file in files]
        owners = {path: [i for i, own in enumerate(keys) if path in own] for path in widths}
        shapes = {path: _shape(files, owners[path], path, width) for path, width in widths.items()}
        write_header(stream, ((path, "F32", shape) for path, shape in shapes.items()), {})
        for path, shape in shapes.items():
            rows = torch.zeros(shape)
            for i in owners[path]:
                own = files[i].get_tensor(path).float()
                rows[i][: len(own)] = own
            stream.write(rows.numpy().data)


def _shape(files: Sequence[Any], owners: Sequence[int], path: str, width: int) -> tuple[int, ...]:
    shapes = [files[i].get_slice(path).get_shape() for i in owners]
    if all(len(shape) == 1 for shape in shapes):
        return len(files), width
    return len(files), max(shape[0] for shape in shapes), width


def stack_numbers(
    per_expert: Sequence[Mapping[str, Sequence[float]]], paths: Iterable[str]
) -> dict[str, NDArray[np.float32]]:
    """Return path → (n, longest) of the numbers that experts have for a module; zeros fill the rest."""
    stacked = {}
    for path in paths:
        rows = [list(own.get(path, ())) for own in per_expert]
        longest = max(1, *map(len, rows))
        stacked[path] = np.array([row + [0.0] * (longest - len(row)) for row in rows], dtype=np.float32)
    return stacked
