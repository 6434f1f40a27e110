"""How alike two adapters change a base: the exact inner product of whole ΔW, from files."""

from __future__ import annotations

from lora.algebra import gram, one_thread
from lora.lazy_torch import torch
from lora.weights import AdapterFile


def inner_product(one: AdapterFile, other: AdapterFile) -> float:
    """Return Σ ⟨ΔW, ΔW'⟩ over the modules that both adapt in one shape, float64. The files are open."""
    total = 0.0
    with one_thread():
        for path in one.paths:
            twin = other.layout.modules.get(path)
            module = one.layout.modules[path]
            if twin and (twin.d_out, twin.d_in) == (module.d_out, module.d_in):
                total += float(gram([file.factors(path, torch.float64) for file in (one, other)])[0, 1])
    return total
