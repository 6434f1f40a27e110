"""Delta sketch: a few numbers that stand for the whole weight change, to find adapters of a like one among many."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lora.algebra import one_thread
from lora.lazy_torch import torch
from lora.prototypes import PROTOTYPES
from lora.weights import AdapterFile

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 16
SKETCH_DIM = SIDE * SIDE


@PROTOTYPES.register(
    "delta_sketch",
    title="ΔW sketch",
    summary="A random projection of the whole weight change, whose cosines estimate those of ΔW.",
    source="Achlioptas, “Database-friendly random projections”, 2003, on both sides of every module",
    space="module",
)
def delta_sketch(file: AdapterFile) -> NDArray[np.float32]:
    """Return Σ P·ΔW·Qᵀ over all modules, of an open file; (SKETCH_DIM,).

    P (SIDE, d_out) and Q (SIDE, d_in) have random signs over √SIDE that follow from the module's path. The inner
    product of two sketches is in expectation that of the whole ΔW, however each is split into factors. Its error is
    about ‖ΔW‖·‖ΔW'‖/SIDE, and more where few modules have most of the energy.
    Source: Achlioptas, "Database-friendly random projections", 2003, on both sides of every module.
    """
    total = torch.zeros(SIDE, SIDE, dtype=torch.float64)
    with one_thread():
        for path in file.paths:
            found, module = file.factors(path), file.layout.modules[path]
            left, right = _signs(path, module.d_out, module.d_in)
            total += found.scaling / SIDE * ((left @ found.B).double() @ (found.A @ right.T).double())
    return total.flatten().float().numpy()


def _signs(path: str, d_out: int, d_in: int) -> tuple[Tensor, Tensor]:
    """Return (SIDE, d_out) and (SIDE, d_in) of ±1, float32."""
    seed = int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "little")
    count = SIDE * (d_out + d_in)
    drawn = np.frombuffer(np.random.Generator(np.random.Philox(seed)).bytes(-(-count // 8)), dtype=np.uint8)
    signs = torch.from_numpy(np.unpackbits(drawn, count=count)).float() * 2 - 1
    return signs[: SIDE * d_out].reshape(SIDE, d_out), signs[SIDE * d_out :].reshape(SIDE, d_in)
