"""TIES the plain way, on whole matrices in torch: what the streamed one is measured against."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors.torch import save_file

from bench.shapes import RANK, read_folder
from lora.weights import AdapterFile

DENSITY = 0.2
OVERSAMPLE = 16


@torch.inference_mode()
def merge_densely(folders: Sequence[Path], out: Path) -> None:
    """Trim, elect, average and truncate every module, and write the factors."""
    tensors = {}
    with ExitStack() as stack:
        files = [stack.enter_context(AdapterFile(*read_folder(folder)[:2])) for folder in folders]
        for path in files[0].paths:
            factors = [file.factors(path, torch.float32) for file in files]
            merged = dense_ties(torch.stack([item.scaling * item.B @ item.A for item in factors]))
            U, sigma, V = torch.svd_lowrank(merged, q=RANK + OVERSAMPLE, niter=2)
            root = sigma[:RANK].sqrt()
            tensors[f"base_model.model.{path}.lora_A.weight"] = (V[:, :RANK] * root).T.contiguous()
            tensors[f"base_model.model.{path}.lora_B.weight"] = (U[:, :RANK] * root).contiguous()
    save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})


def dense_ties(deltas: torch.Tensor) -> torch.Tensor:
    """Return the disjoint mean of the trimmed ΔW; (n, d_out, d_in) to (d_out, d_in). Changes what it is given."""
    kept = max(1, int(DENSITY * deltas[0].numel()))
    for delta in deltas:
        magnitudes = delta.abs()
        floor = magnitudes.flatten().kthvalue(delta.numel() - kept + 1).values
        delta.masked_fill_(magnitudes < floor, 0)
    elected = deltas.sum(0).sign()
    agreeing = deltas.masked_fill_(deltas.sign() != elected, 0)
    return agreeing.sum(0) / agreeing.count_nonzero(0).clamp(min=1)
