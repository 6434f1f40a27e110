"""Where the training of gates begins: all experts count alike, and nothing is yet the same for ever.

Of two factors the first is random and the second zero, as in LoRA: the product is zero, and its slope is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from lora.compositions import Shapes
from lora.lazy_torch import torch

if TYPE_CHECKING:
    from torch import Tensor

Shape: TypeAlias = tuple[int, ...]
Draw: TypeAlias = np.random.Philox
Start: TypeAlias = Callable[[Shape, int, Draw], "Tensor"]

# The sizes that types leave open: hidden units, width of the attention, rank of a RouterLoRA.
OPEN_SIZES = {"h": 64, "a": 64, "r": 8}


def _random(shape: Shape, n: int, draw: Draw) -> Tensor:
    """Uniform around zero, with a standard deviation of one over the root of the values that each row reads."""
    raw = draw.random_raw(math.prod(shape)).reshape(shape)  # numpy guarantees its raw bits only
    return torch.from_numpy(((raw / 2.0**64 - 0.5) * (12 / shape[-1]) ** 0.5).astype(np.float32))


def _zeros(shape: Shape, n: int, draw: Draw) -> Tensor:
    return torch.zeros(shape)


def _ones(shape: Shape, n: int, draw: Draw) -> Tensor:
    return torch.ones(shape)


def _identity(shape: Shape, n: int, draw: Draw) -> Tensor:
    return torch.eye(shape[0])


def _equal(shape: Shape, n: int, draw: Draw) -> Tensor:
    return torch.full(shape, 1 / n)


def _equal_before_sigmoid(shape: Shape, n: int, draw: Draw) -> Tensor:
    """What a sigmoid makes 1/n of; of a single expert, 0.9."""
    return torch.full(shape, 1 / n if n > 1 else 0.9).logit()


# What does not begin at zero, by type. Among equal scores the first top_k would be chosen, and nobody else would learn.
STARTS: Mapping[str, Mapping[str, Start]] = {
    "lora_flow": {},
    "mole": {"temperature": _ones},
    "meteora": {"weight": _random},
    "adapter_fusion": {"key": _random, "value": _identity},
    "ramole": {"router_A": _random},
    "pemt": {"keys": _random},
    "mixda": {"hidden_weight": _random, "bias": _equal_before_sigmoid},
    "wemoe": {"hidden_weight": _random, "bias": _equal},
    "pwe_moe": {"hidden_weight": _random, "bias": _equal},
    "twin_merging": {"hidden_weight": _random},
}


def sizes_at(n: int, width: int, outputs: int = 0) -> dict[str, int]:
    """Return what the letters of `lora.compositions` stand for at one place.

    Args:
        n: how many experts. width: of what enters. outputs: of what comes out, where the place is one module.
    """
    return OPEN_SIZES | {"n": n, "n-1": n - 1, "d": width, "o": outputs, "n*o": n * outputs}


def shaped(shapes: Shapes, sizes: Mapping[str, int]) -> dict[str, Shape]:
    """Return the shapes of a type's tensors with these sizes."""
    return {
        part: tuple(size if isinstance(size, int) else sizes[size] for size in shape) for part, shape in shapes.items()
    }


def started(kind: str, shapes: Mapping[str, Shape], n: int, draw: Draw) -> dict[str, Tensor]:
    """Return the tensors of one place to begin with, float32, on the CPU."""
    return {part: STARTS[kind].get(part, _zeros)(shape, n, draw) for part, shape in shapes.items()}
