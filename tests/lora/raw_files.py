"""An independent reading of adapter files: numpy float64 from the raw bytes, nothing of `lora/` and no torch."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def read_tensors(path: Path) -> dict[str, Array]:
    """Return every tensor of a safetensors file as float64."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    tensors = {}
    for name, entry in json.loads(raw[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        data = raw[8 + size + start : 8 + size + end]
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(data, dtype={"F32": "<f4", "F16": "<f2", "F64": "<f8"}[entry["dtype"]])
        tensors[name] = values.astype(np.float64).reshape(entry["shape"])
    return tensors


def read_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "adapter_config.json").read_text())


def _of_pattern(patterns: dict[str, Any], path: str, default: Any) -> Any:
    return next((v for k, v in patterns.items() if re.match(rf"(.*\.)?({k})$", path)), default)


def read_deltas(folder: Path) -> dict[str, Array]:
    """Return path → ΔW = s·B·A, (d_out, d_in); conv kernels flattened, embeddings (dim, vocab)."""
    config, tensors = read_config(folder), read_tensors(folder / "adapter_model.safetensors")
    deltas = {}
    for name, tensor in tensors.items():
        if found := re.fullmatch(r"base_model\.model\.(.*)\.lora_(embedding_)?A(\.weight)?", name):
            path = found[1]
            A, B = tensor, tensors[name.replace("_A", "_B")]
            rank = len(A)
            assert rank == _of_pattern(config["rank_pattern"], path, config["r"])
            alpha = _of_pattern(config["alpha_pattern"], path, config["lora_alpha"])
            scaling = alpha / (rank**0.5 if config["use_rslora"] else rank)
            deltas[path] = scaling * B.reshape(len(B), rank) @ A.reshape(rank, -1)
    return deltas


def weighted_total(folders: list[Path], weights: list[float]) -> dict[str, Array]:
    """Return path → Σ wᵢ·ΔWᵢ; an adapter without a module counts as zero there."""
    total: dict[str, Array] = {}
    for folder, weight in zip(folders, weights, strict=True):
        for path, delta in read_deltas(folder).items():
            total[path] = total.get(path, 0.0) + weight * delta
    return total


def best_of_rank(delta: Array, rank: int) -> Array:
    """Return the nearest matrix of at most this rank."""
    U, sigma, Vh = np.linalg.svd(delta, full_matrices=False)
    return (U[:, :rank] * sigma[:rank]) @ Vh[:rank]


def relative_error(actual: Array, expected: Array) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))
