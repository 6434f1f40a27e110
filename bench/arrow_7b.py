"""Exact Arrow prototypes of a 7B-shaped adapter, against hashing its file and against PEFT's power iterations.

Usage: python -m bench.arrow_7b [FOLDER OF TRAINED ADAPTERS]
"""

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean, median

import numpy as np
import torch
from peft import ArrowConfig
from peft.tuners.lora.arrow import ArrowLoraLinearLayer

from bench.shapes import LAYER, adapter_folders, read_folder, write_adapter_7b
from lora.prototypes.arrow import arrow, arrow_file
from lora.weights import AdapterFile

LAYERS = 32


def seconds(work: Callable[[], object], rounds: int = 7) -> float:
    """Return the median wall time of several runs, after one to warm up."""
    work()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times)


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def peft_vector(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """Return PEFT's prototype: 15 power iterations from a random start."""
    config = ArrowConfig(rng_seed=0)
    config.task_adapter_names, config.gks_adapter_names = [], []  # filled by create_arrow_model, needed here to exist
    layer = ArrowLoraLinearLayer(A.shape[1], config)
    return layer.top_right_singular_vec_from_BA(A, B)


def reference(A: torch.Tensor, B: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return (v, sigma) by Householder QR and SVD in numpy float64, which equals the SVD of the dense product."""
    Q, R_A = np.linalg.qr(A.double().numpy().T)
    _, sigma, Vh = np.linalg.svd(np.linalg.qr(B.double().numpy())[1] @ R_A.T)
    return Q @ Vh[0], sigma


def factors_of(folders: Iterable[Path]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    pairs = []
    for folder in folders:
        weights, layout, _ = read_folder(folder)
        with AdapterFile(weights, layout) as file:
            pairs += [(f.A.clone(), f.B.clone()) for f in map(file.factors, file.paths)]
    return pairs


def compare_with_peft(title: str, folders: list[Path]) -> None:
    pairs = factors_of(folders)
    ours = seconds(lambda: [arrow(A, B, 1.0) for A, B in pairs], rounds=3)
    theirs = seconds(lambda: [peft_vector(A, B) for A, B in pairs], rounds=3)
    cosines = [abs(float(peft_vector(A, B).double() @ torch.from_numpy(reference(A, B)[0]))) for A, B in pairs]
    exact = [abs(float(arrow(A, B, 1.0)[0].double() @ torch.from_numpy(reference(A, B)[0]))) for A, B in pairs]
    print(f"\n{title}: {len(pairs)} modules, tensors in memory, one call per module")
    print(f"  {'':24}{'time':>10}{'mean |cos|':>14}{'min |cos|':>12}{'share < 0.9':>13}")
    for name, wall, values in (("this engine, exact", ours, exact), ("PEFT, 15 iterations", theirs, cosines)):
        below = sum(value < 0.9 for value in values) / len(values)
        print(f"  {name:24}{wall:9.3f}s{mean(values):14.6f}{min(values):12.6f}{below:13.1%}")
    print(f"  ratio of the times, PEFT / this engine: {theirs / ours:.1f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trained", nargs="?", type=Path, default=Path("examples/zoo"))
    trained = parser.parse_args().trained
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_adapter_7b(Path(scratch) / "adapter", layers=LAYERS, seed=0)
        weights, layout, _ = read_folder(folder)
        hashing = seconds(lambda: sha256(weights))
        prototypes = seconds(lambda: arrow_file(weights, layout))
        size = weights.stat().st_size / 1e6
        print(f"7B-shaped adapter: {LAYERS * len(LAYER)} modules, r = 16, float32, {size:.0f} MB, warm cache")
        print(f"  read and sha256 the file  {hashing:8.3f} s")
        print(f"  exact Arrow prototypes    {prototypes:8.3f} s")
        print(f"  ratio                     {prototypes / hashing:8.2f}   (bar: at most 2)")

        shapes = {A.shape[1] * 10**6 + B.shape[0]: (A, B) for A, B in factors_of([folder])}
        print("\nagainst float64, one module per shape")
        for A, B in shapes.values():
            (v, sigma), (expected, sigmas) = arrow(A, B, 1.0), reference(A, B)
            error = min(np.abs(v.numpy() - expected).max(), np.abs(v.numpy() + expected).max())
            worst = np.abs(sigma.numpy() / sigmas - 1).max()
            ratio = sigmas[1] / sigmas[0]
            shape = f"{B.shape[0]}x{A.shape[1]}"
            print(f"  {shape:12} σ₂/σ₁ {ratio:.3f}   max |Δv| {error:.1e}   max relative Δσ {worst:.1e}")
        compare_with_peft("random adapter", [folder])
    folders = list(adapter_folders(trained))
    if folders:
        compare_with_peft(f"trained adapters in {trained}", folders)
    else:
        print(f"\nno adapters under {trained}: the comparison on trained ones is left out")


if __name__ == "__main__":
    main()
