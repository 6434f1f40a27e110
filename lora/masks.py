"""Random numbers per entry of ΔW that every pass, block size and machine draws alike.

A pass over a large module regenerates its masks instead of holding them, so an entry's number must follow from where
the entry is and not from what was drawn before it. A counter-based generator does that: the counter is the place.
Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox 4x64-10, as numpy has it; numpy
guarantees its raw bits).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from lora.lazy_torch import torch

if TYPE_CHECKING:
    from torch import Tensor

PER_STEP = 8  # numbers that one counter gives: four words of two halves
ONE_AS_BITS = 0x3F80_0000  # of a float32: with 23 random bits behind it a number in [1, 2)


def uniform(seed: int, digest: str, path: str, rows: slice, width: int) -> Tensor:
    """Return independent numbers, uniform in [0, 1), for some rows of one input's module; (b, width), float32.

    Args:
        seed: of the recipe.
        digest: what tells the input from others, such as the sha256 of its file.
        path: of the module.
        rows: which rows of the module, with start and stop. A row has the same numbers whatever others come with it.
        width: entries of a row.
    """
    key = hashlib.sha256(f"{seed}\n{digest}\n{path}".encode()).digest()
    steps = -(-width // PER_STEP)  # of a row: every row starts at a counter of its own
    words = np.frombuffer(key[:16], dtype="<u8")
    generator = np.random.Philox(key=words, counter=rows.start * steps)
    raw = generator.random_raw((rows.stop - rows.start) * steps * (PER_STEP // 2))
    halves = raw.astype("<u8", copy=False).view("<u4").reshape(-1, steps * PER_STEP)[:, :width]
    bits = halves >> 9
    bits |= ONE_AS_BITS
    return torch.from_numpy(bits.astype(np.uint32, copy=False).view(np.float32)).sub_(1)
