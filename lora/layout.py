"""From tensor names to modules: which A and B belong together, and what they change.

Names are those that PEFT's `get_peft_model_state_dict` writes: `base_model.model.<path>.lora_A.weight` and its kin.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

from lora.config import CONFIG_NAME, LoraConfig
from lora.errors import InvalidAdapter, Problem
from lora.header import WEIGHTS_NAME, Header, TensorInfo
from lora.pattern_syntax import UnsafePattern

Kind = Literal["linear", "conv", "embedding"]

PREFIX = "base_model.model."
FLOATS = ("F16", "BF16", "F32", "F64")
_EXTRA_DTYPES = (*FLOATS, "BOOL", "U8", "I8", "I16", "U16", "I32", "U32", "I64", "U64")

# Part of a module → the part that it stands for. Some tools leave the adapter's name between part and leaf.
_WITH_LEAF = {
    ("lora_A", "weight"): "A",
    ("lora_B", "weight"): "B",
    ("lora_B", "bias"): "bias",
}
_WITHOUT_LEAF = {
    "lora_embedding_A": "embedding_A",
    "lora_embedding_B": "embedding_B",
    "lora_magnitude_vector": "magnitude",
}

_NUMBER = re.compile("[0-9]{1,9}")  # paths are strangers': a longer one is no layer

Parts = dict[str, str]  # part → tensor name in the file


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


def layer_of(path: str) -> int | None:
    """Return the first number in a module's path, such as 3 of `model.layers.3.self_attn.q_proj`; None without one."""
    return next((int(word) for word in path.split(".") if _NUMBER.fullmatch(word)), None)


def read_layout(header: Header, config: LoraConfig) -> Layout:
    """Pair the factors and check them against rank, patterns and the config's switches.

    Raises: InvalidAdapter: every module that is wrong, with its shapes; no module at all; names that no loader finds.
    """
    parts, extra, problems = _sort_tensors(header)
    modules = {}
    for path in sorted(parts):
        try:
            modules[path] = _module(path, parts[path], header.tensors, config)
        except _BadModule as bad:
            problems.append(Problem(bad.code, path, bad.message))
        except UnsafePattern as error:
            where = f"{CONFIG_NAME}: rank_pattern, alpha_pattern"
            raise InvalidAdapter([Problem("unsafe_pattern", where, f"Refused: {error}. Use plain names.")]) from None
    if not problems:
        problems += _whole_file_problems(modules, config)
    if problems:
        raise InvalidAdapter(problems)
    return Layout(modules, extra)


def _sort_tensors(header: Header) -> tuple[dict[str, Parts], dict[str, TensorInfo], list[Problem]]:
    """Return the parts of each module, the other tensors, and what cannot be placed."""
    modules: dict[str, Parts] = {}
    extra, problems = {}, []
    for name, tensor in header.tensors.items():
        where = f"{WEIGHTS_NAME}: {name}"
        if not name.startswith(PREFIX) or name.startswith(PREFIX + "base_model."):
            message = f"Loaders look for names that begin with {PREFIX} once, and skip others. Rename the tensor."
            problems.append(Problem("wrong_prefix", where, message))
        elif not any(segment.lower().startswith("lora_") for segment in name.split(".")):
            extra[name] = tensor
            if tensor.dtype not in _EXTRA_DTYPES:
                problems.append(Problem("bad_dtype", where, f"{tensor.dtype} is not supported. Save it as a float."))
        elif (found := _split_name(name.removeprefix(PREFIX))) is None:
            message = "This is no tensor of a LoRA adapter as PEFT writes it. Convert the adapter to PEFT's format."
            problems.append(Problem("unknown_tensor", where, message))
        else:
            path, part = found
            other = modules.setdefault(path, {}).setdefault(part, name)
            if other != name:
                message = f"It stands for the same factor as {other}. Keep one of them."
                problems.append(Problem("same_module_twice", where, message))
    return modules, extra, problems


def _split_name(name: str) -> tuple[str, str] | None:
    """Return module path and part of a tensor name without prefix, or None if PEFT writes no such name."""
    segments = name.split(".")
    for at in range(len(segments) - 1, 0, -1):
        path, part, rest = ".".join(segments[:at]), segments[at], segments[at + 1 :]
        if part in _WITHOUT_LEAF and (len(rest) < 2 or (len(rest) == 2 and rest[1] == "weight")):
            return path, _WITHOUT_LEAF[part]
        if 1 <= len(rest) <= 2 and (part, rest[-1]) in _WITH_LEAF:
            return path, _WITH_LEAF[part, rest[-1]]
    return None


class _BadModule(Exception):
    def __init__(self, code: str, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(message)


def _module(path: str, parts: Parts, tensors: Mapping[str, TensorInfo], config: LoraConfig) -> ModuleLayout:
    """Return one checked module; raise `_BadModule`."""
    embedding = not parts.keys().isdisjoint(("embedding_A", "embedding_B"))
    a_part, b_part = ("embedding_A", "embedding_B") if embedding else ("A", "B")
    if a_part not in parts or b_part not in parts:
        missing = "lora_A" if a_part not in parts else "lora_B"
        raise _BadModule("missing_pair", f"Its {missing} is missing beside {', '.join(sorted(parts.values()))}.")
    if embedding and not parts.keys().isdisjoint(("A", "B")):
        raise _BadModule("same_module_twice", "It has factors of an embedding and of a linear layer. Keep one pair.")
    A, B = tensors[parts[a_part]], tensors[parts[b_part]]
    rank, d_in, d_out = _checked_shapes(A, B, config.rank_of(path))
    for part, needed in (("magnitude", config.use_dora), ("bias", config.lora_bias)):
        _check_vector(part, parts, tensors, needed, d_out)
    conv = len(A.shape) > 2
    return ModuleLayout(
        path=path,
        kind="embedding" if embedding else "conv" if conv else "linear",
        a_name=parts[a_part],
        b_name=parts[b_part],
        rank=rank,
        d_in=d_in,
        d_out=d_out,
        scaling=config.scaling_of(path, rank),
        kernel=A.shape[2:],
        bias_name=parts.get("bias"),
        magnitude_name=parts.get("magnitude"),
    )


def _checked_shapes(A: TensorInfo, B: TensorInfo, expected: int) -> tuple[int, int, int]:
    """Return rank, d_in, d_out of a pair of factors; raise `_BadModule`."""
    shapes = f"lora_A is {list(A.shape)}, lora_B is {list(B.shape)}"
    if A.dtype not in FLOATS or B.dtype not in FLOATS:
        raise _BadModule("bad_dtype", f"Its factors are {A.dtype} and {B.dtype}. Save them as {', '.join(FLOATS)}.")
    if len(A.shape) != len(B.shape) or not 2 <= len(A.shape) <= 5 or any(size != 1 for size in B.shape[2:]):
        raise _BadModule("bad_shape", f"{shapes}; expected (r, in) and (out, r), or those of a convolution.")
    if A.shape[0] != expected and A.shape[1] == expected == B.shape[0]:
        raise _BadModule("factors_swapped", f"{shapes}; they look swapped. Expected (r, in) and (out, r).")
    rank = A.shape[0]
    if B.shape[1] != rank:
        if len(A.shape) > 2 and rank % B.shape[1] == 0:
            raise _BadModule("grouped_conv", f"{shapes}: a convolution in groups, which is not supported.")
        raise _BadModule("pair_mismatch", f"{shapes}; their ranks {rank} and {B.shape[1]} differ.")
    if rank != expected:
        raise _BadModule(
            "rank_mismatch",
            f"Its rank is {rank}, and the config says {expected}. Send the config that was saved with these weights.",
        )
    return rank, prod(A.shape[1:]), B.shape[0]


def _check_vector(part: str, parts: Parts, tensors: Mapping[str, TensorInfo], needed: bool, d_out: int) -> None:
    """Check a magnitude or bias vector: there exactly if the config says so, as long as the output."""
    switch = {"magnitude": "use_dora", "bias": "lora_bias"}[part]
    if needed is not (part in parts):
        state = f"is missing, and the config says {switch}" if needed else f"is there, and the config denies {switch}"
        raise _BadModule(f"{part}_mismatch", f"Its {part} vector {state}. Send the config saved with these weights.")
    if part in parts:
        tensor = tensors[parts[part]]
        if prod(tensor.shape) != d_out or tensor.dtype not in FLOATS:
            message = f"Its {part} vector is {tensor.dtype} {list(tensor.shape)}; expected {d_out} floats."
            raise _BadModule(f"{part}_mismatch", message)


def _whole_file_problems(modules: Mapping[str, ModuleLayout], config: LoraConfig) -> Iterator[Problem]:
    if config.target_parameters:
        message = "LoRA on bare parameters (mixtures of experts) is not supported; only on modules."
        yield Problem("unsupported", f"{CONFIG_NAME}: target_parameters", message)
    elif not modules:
        message = "There are no lora_A and lora_B tensors. Save the adapter with PEFT's save_pretrained."
        yield Problem("no_modules", WEIGHTS_NAME, message)
    elif all(module.rank > min(module.d_in, module.d_out) for module in modules.values()):
        message = "The rank exceeds the full rank of every module. Send the adapter with a smaller rank."
        yield Problem("rank_too_large", WEIGHTS_NAME, message)
