"""Weighted-sum merge of 8 adapters of a 7B model, against PEFT's `add_weighted_adapter("svd")` on ONE decoder layer.

PEFT needs a base model to merge: it gets a dummy one with the shapes of a single layer, since its dense SVDs would
take hours for all 32. This engine merges the same single layer for the ratio, and all layers for time and memory.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from bench.peft_svd import merge_with_peft
from bench.shapes import LAYER, RANK, read_folder, write_adapter_7b

INPUTS, LAYERS = 8, 32


def merge_here(folders: list[Path], out: Path) -> tuple[float, float]:
    """Merge in this process; return (seconds, growth of the peak RSS above the imports in bytes)."""
    from lora.merging import MergeInput, OutputSpec, merge

    out.mkdir()
    inputs = []
    for folder in folders:
        weights, layout, config = read_folder(folder)
        inputs.append(MergeInput(weights, layout, config, None, f"bench/{folder.name}", folder.name))
    torch.linalg.qr(torch.ones(2, 2))  # LAPACK is loaded at its first use: part of the imports
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    merge("weighted_sum", {}, inputs, OutputSpec(), out, metadata={})
    wall = time.perf_counter() - start
    return wall, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def merge_apart(scratch: Path, folders: list[Path], name: str) -> tuple[float, float]:
    """Merge in a fresh process, so that its peak memory is its own."""
    command = [sys.executable, "-m", "bench.merge_7b", "--merge", str(scratch / name), *map(str, folders)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    wall, grown = done.stdout.split()
    return float(wall), float(grown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--merge", nargs="+", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--without-peft", action="store_true", help="time and memory of this engine only")
    arguments = parser.parse_args()
    if arguments.merge:
        out, *folders = arguments.merge
        print(*merge_here(folders, out))
        return
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folders = [write_adapter_7b(scratch / f"all{i}", layers=LAYERS, seed=i) for i in range(INPUTS)]
        wall, grown = merge_apart(scratch, folders, "merged")
        files = [folder / "adapter_model.safetensors" for folder in (*folders, scratch / "merged")]
        total = sum(file.stat().st_size for file in files)
        print(
            f"{INPUTS} adapters, {LAYERS * len(LAYER)} modules each, r = {RANK}, float32, merged by SVD to r = {RANK}"
        )
        print(f"  this engine, time               {wall:10.2f} s")
        print(f"  peak RSS above the imports      {grown / 1e6:10.0f} MB")
        print(f"  inputs + output                 {total / 1e6:10.0f} MB")
        print(f"  ratio                           {grown / total:10.2f}   (bar: below 2)")
        layer = [write_adapter_7b(scratch / f"one{i}", layers=1, seed=i) for i in range(INPUTS)]
        ours = min(merge_apart(scratch, layer, f"merged{i}")[0] for i in range(3))
        print(f"ONE decoder layer, {len(LAYER)} modules, dummy base")
        print(f"  this engine, from files to file {ours:10.2f} s")
        if not arguments.without_peft:
            theirs, _ = merge_with_peft(layer, LAYER)
            print(f'  PEFT add_weighted_adapter("svd") {theirs:9.2f} s, in memory')
            print(f"  ratio                           {theirs / ours:10.0f}x  (bar: at least 100x)")


if __name__ == "__main__":
    main()
