"""From tensor names to modules: which A and B belong together, and what they change."""

from dataclasses import dataclass
from typing import Literal

from lora.config import LoraConfig
from lora.header import Header, TensorInfo

Kind = Literal["linear", "conv", "embedding"]


@dataclass(frozen=True)
class ModuleLayout:
    """One adapted module: ΔW = scaling·B·A with B (d_out, rank) and A (rank, d_in).

    Attributes:
        path: the base's `named_modules()` name, without `base_model.model.`.
        kind: conv factors are stored as A (rank, in, *kernel) and B (d_out, rank, 1, …); d_in = in·∏kernel.
            Embedding factors are stored as A (rank, vocab) and B (dim, rank); d_in = vocab, d_out = dim.
        a_name, b_name: tensor names in the file.
        scaling: alpha/r or alpha/√r of this module.
        kernel: conv only, else empty.
        bias_name: `lora_B.bias` (d_out,), scaled like B, or None.
        magnitude_name: DoRA's magnitude vector (d_out,), or None.
    """

    path: str
    kind: Kind
    a_name: str
    b_name: str
    rank: int
    d_in: int
    d_out: int
    scaling: float
    kernel: tuple[int, ...] = ()
    bias_name: str | None = None
    magnitude_name: str | None = None


@dataclass(frozen=True)
class Layout:
    """All of a file: adapted modules by path, sorted, and every other tensor by its name in the file.

    `extra` holds absolute weights: heads, saved modules, biases, token embeddings.
    """

    modules: dict[str, ModuleLayout]
    extra: dict[str, TensorInfo]


def read_layout(header: Header, config: LoraConfig) -> Layout:
    """Pair the factors, check them against rank and patterns."""
    raise NotImplementedError
