"""Time and peak memory of merge methods on the shapes of SmolLM2-135M and Llama-3-8B (all linear, r = 16, random).

Parts: "layer", one decoder layer of every method at every n; "all", all layers of five methods at n = 5; "dense",
streamed TIES beside TIES on whole matrices in torch; "peft", `svd` beside PEFT's on one layer, which gets a dummy base.
The bars are meant for Llama-3-8B: whole matrices of a small model are cheap. Everything runs in a process of its own,
from files to a file. "MB" is the peak of its resident memory, "+MB" of that what came on top of the imports.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bench.dense_ties import merge_densely
from bench.peft_svd import merge_with_peft
from bench.shapes import LLAMA3_8B, LLAMA3_LAYERS, SMOLLM2_135M, SMOLLM2_LAYERS, read_folder, write_adapter
from lora.merges import MERGES
from lora.merging import MergeInput, OutputSpec, merge

MODELS = {"SmolLM2-135M": (SMOLLM2_135M, SMOLLM2_LAYERS), "Llama-3-8B": (LLAMA3_8B, LLAMA3_LAYERS)}
PARTS = ("layer", "all", "dense", "peft")
INPUTS = (2, 5, 10, 20)
ALL_METHODS = ("weighted_sum", "knots_ties", "tsv_m", "wudi", "ties")
ALL_INPUTS = 5
IN_TIME = ("linear", "spectral")  # families with bars: 60 s and 3 GB for all layers
DENSE, PEFT = "dense TIES", "PEFT svd"


@dataclass(frozen=True)
class Measured:
    """One run.

    Attributes:
        seconds, cpu: wall and CPU time, of all threads.
        peak: of the resident memory, bytes; `grown` of it since the imports.
    """

    seconds: float
    cpu: float
    peak: int
    grown: int

    def __str__(self) -> str:
        return f"{self.seconds:.2f} s, {self.cpu:.2f} CPU s, {self.peak / 1e6:.0f} MB, +{self.grown / 1e6:.0f} MB"


def run_here(what: str, model: str, folders: list[Path], out: Path, device: str) -> Measured:
    """Merge in this process."""
    torch.linalg.qr(torch.ones(2, 2, device=device))  # libraries are loaded at their first use: part of the imports
    before = _memory("VmRSS")
    if what == PEFT:
        seconds, cpu = merge_with_peft(folders, MODELS[model][0])
    else:
        out.mkdir()
        run: Callable[[], object] = lambda: merge_densely(folders, out)  # noqa: E731
        if what != DENSE:
            inputs = [_input(folder) for folder in folders]
            mode = MERGES.get(what).traits.get("rank_mode", "max_input")
            run = lambda: merge(what, {}, inputs, OutputSpec(mode), out, metadata={}, device=device)  # noqa: E731
        start, start_cpu = time.perf_counter(), time.process_time()
        run()
        seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    peak = _memory("VmHWM")
    return Measured(seconds, cpu, peak, peak - before)


def _input(folder: Path) -> MergeInput:
    weights, layout, config = read_folder(folder)
    return MergeInput(weights, layout, config, None, f"bench/{folder.name}", folder.name)


def _memory(name: str) -> int:
    """Return a figure of /proc/self/status in bytes; getrusage's would count what the parent had."""
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{name}:"))


class Adapters:
    """Adapters on disk, written when they are first asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._outputs = 0

    def folders(self, model: str, layers: int, count: int) -> list[Path]:
        shapes, found = MODELS[model][0], []
        for seed in range(count):
            folder = self._root / f"{model}-{layers}" / str(seed)
            found.append(folder if folder.exists() else write_adapter(folder, shapes, layers=layers, seed=seed))
        return found

    def measure(self, what: str, model: str, layers: int, count: int, device: str) -> Measured:
        """Merge in a fresh process."""
        self._outputs += 1
        folders = [str(folder) for folder in self.folders(model, layers, count)]
        task = {"what": what, "model": model, "folders": folders, "device": device}
        task["out"] = str(self._root / f"out{self._outputs}")
        command = [sys.executable, "-m", "bench.merge", "--task", json.dumps(task)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{what} of {count} failed:\n{done.stderr[-2000:]}")
        return Measured(**json.loads(done.stdout))


def part_layer(adapters: Adapters, model: str, options: argparse.Namespace) -> None:
    print(f"\n{model}, one decoder layer\n")
    print(f"| method | {' | '.join(f'n = {n}' for n in options.n)} |")
    print("|---|" + "---|" * len(options.n))
    for method in options.methods or _weight_only():
        most = MERGES.get(method).traits.get("max_inputs", max(options.n))
        cells = [str(adapters.measure(method, model, 1, n, options.device)) if n <= most else "–" for n in options.n]
        print(f"| `{method}` | {' | '.join(cells)} |", flush=True)


def part_all(adapters: Adapters, model: str, options: argparse.Namespace) -> None:
    layers = options.layers or MODELS[model][1]
    print(f"\n{model}, {layers} layers, n = {ALL_INPUTS}\n\n| method | measured | bar: 60 s, 3 GB |\n|---|---|---|")
    for method in options.methods or ALL_METHODS:
        measured = adapters.measure(method, model, layers, ALL_INPUTS, options.device)
        held = "kept" if measured.seconds <= 60 and measured.peak <= 3e9 else "missed"
        print(f"| `{method}` | {measured} | {held if _family(method) in IN_TIME else '–'} |", flush=True)


def part_dense(adapters: Adapters, model: str, options: argparse.Namespace) -> None:
    streamed, dense = (adapters.measure(what, model, 1, ALL_INPUTS, "cpu") for what in ("ties", DENSE))
    print(f"\n{model}, one decoder layer, n = {ALL_INPUTS}\n\n| TIES | measured |\n|---|---|")
    print(f"| streamed | {streamed} |\n| on whole matrices | {dense} |")
    memory, seconds, cpu = (getattr(streamed, key) / getattr(dense, key) for key in ("grown", "seconds", "cpu"))
    print(
        f"| ratio | {memory:.2f}x memory (bar 0.33), {seconds:.2f}x time (bar 1.5), {cpu:.2f}x CPU time |", flush=True
    )


def part_peft(adapters: Adapters, model: str, options: argparse.Namespace) -> None:
    ours, theirs = (adapters.measure(what, model, 1, ALL_INPUTS, "cpu") for what in ("svd", PEFT))
    print(f"\n{model}, one decoder layer, n = {ALL_INPUTS}\n\n| svd | measured |\n|---|---|")
    print(f"| this engine, from files to a file | {ours} |\n| PEFT, in memory, dummy base | {theirs} |")
    ratios = f"{theirs.seconds / ours.seconds:.0f}x (bar 100x), {theirs.cpu / ours.cpu:.0f}x CPU time"
    print(f"| ratio | {ratios} |", flush=True)


def _weight_only() -> Iterator[str]:
    return (name for name in MERGES.names() if not MERGES.get(name).needs)


def _family(method: str) -> str:
    return MERGES.get(method).traits["family"]


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--methods", nargs="+", choices=MERGES.names(), help="of the parts layer and all")
    parser.add_argument("--n", nargs="+", type=int, default=list(INPUTS), help="inputs, of the part layer")
    parser.add_argument("--layers", type=int, help="of the part all (default: as many as the model has)")
    parser.add_argument("--device", default="cpu", help="where this engine computes, in the parts layer and all")
    parser.add_argument("--dir", type=Path, help="where adapters are written, if not in the system's temporary folder")
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def run_task(task: Mapping[str, object]) -> None:
    folders = [Path(folder) for folder in task["folders"]]
    measured = run_here(task["what"], task["model"], folders, Path(task["out"]), task["device"])
    print(json.dumps(asdict(measured)))


def main() -> None:
    options = parse_options()
    if options.task:
        run_task(options.task)
        return
    parts = {"layer": part_layer, "all": part_all, "dense": part_dense, "peft": part_peft}
    for model in options.models:
        with tempfile.TemporaryDirectory(dir=options.dir) as folder:
            for part in options.parts:
                parts[part](Adapters(Path(folder) / part), model, options)


if __name__ == "__main__":
    main()
