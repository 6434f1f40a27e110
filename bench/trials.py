"""Trials on the example experts: how often a few examples put the right one first, and how long a trial takes.

Every test line, without its instruction, is run once under each of the twelve experts, as it is and below the
instruction of the expert's samples; then examples are drawn and ranked as a trial does it: by exact answers, ties by
probability.
"""

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bench.merge_quality import ZOO
from examples.smollm2 import GGUF, gguf_folder
from lora.config import parse_config
from lora.examples import Example, below
from lora.header import read_header
from lora.layout import read_layout
from lora.recipe import MergeInput
from lora.runtime.adapted import AdaptedModel
from lora.runtime.answering import answers
from lora.runtime.loading import load_running_base
from lora.runtime.probe import RunningBase
from lora.runtime.text import PROMPT
from lora.samples import as_examples, parse_samples
from lora.trial_score import Score
from lora.trials import Trial
from lora.weights import AdapterFile

Way = tuple[int, str | None]
"""An expert, and what the lines are put below."""
Measured = tuple[NDArray[np.float64], NDArray[np.bool_]]
"""Of every line the loss, and whether it is answered exactly."""

EXPERTS = sorted(folder.name for folder in ZOO.iterdir() if folder.is_dir())
CANDIDATES = 10
DRAWS = 1000
TIMED = ("record-to-json", "antonym")


def candidate(name: str) -> MergeInput:
    """An example expert as a trial takes it."""
    folder = ZOO / name
    weights = folder / "adapter_model.safetensors"
    config = parse_config((folder / "adapter_config.json").read_bytes())
    with weights.open("rb") as stream:
        layout = read_layout(read_header(stream, weights.stat().st_size), config)
    samples = as_examples(parse_samples((folder / "samples.jsonl").read_bytes()))
    return MergeInput(weights, layout, config, None, name, name, samples)


def lines_of(task: str, count: int, *, instruction: bool) -> list[Example]:
    """The first test lines of a task; the instruction is their first line."""
    rows = as_examples(parse_samples((ZOO / task / "test.jsonl").read_bytes()))[:count]
    return rows if instruction else [Example(row.input.partition("\n")[2], row.output) for row in rows]


@contextmanager
def running(base: RunningBase, item: MergeInput) -> Iterator[None]:
    """The base with one expert on top."""
    with AdapterFile(item.weights_path, item.layout) as file, AdaptedModel(base.model, [file]) as adapted:
        adapted.coefficients = adapted.one(0)
        yield


def measured(base: RunningBase, items: Sequence[MergeInput], lines: Sequence[Example]) -> dict[Way, Measured]:
    """Return the loss of every line under every expert, however a trial asks it, and which are answered exactly."""
    found = {}
    for i, line in enumerate(Trial(base, items, lines).instructions):
        with running(base, items[i]):
            for way in dict.fromkeys((None, line)):
                told = answers(base, below(way, lines), PROMPT)
                found[i, way] = np.array([one.loss for one in told]), np.array([one.is_exact for one in told])
    return found


def scores_of(told: dict[Way, Measured], drawn: NDArray[np.int64]) -> list[Score]:
    """Return the scores of the experts in a trial on the drawn lines, each as it did better."""
    best: dict[int, Score] = {}
    for (i, line), (losses, exact) in told.items():
        score = Score("adapter", i, tuple(losses[drawn]), exact[drawn].mean(), instruction=line)
        best[i] = min(best.get(i, score), score, key=lambda score: score.key)
    return list(best.values())


def right_of(base: RunningBase, own: int, lines: Sequence[Example], sizes: Sequence[int]) -> dict[int, list[float]]:
    """Return by number of examples in how many draws an expert comes first on its task's lines, and by probability."""
    draw = np.random.default_rng(own)
    told = measured(base, [candidate(name) for name in EXPERTS], lines)
    shares = {}
    for size in sizes:
        drawn = [scores_of(told, draw.choice(len(lines), size, replace=False)) for _ in range(DRAWS)]
        first = [min(scores, key=lambda score: score.key).candidate for scores in drawn]
        likeliest = [max(scores, key=lambda score: score.probability or 0.0).candidate for scores in drawn]
        shares[size] = [float(np.mean(np.array(found) == own)) for found in (first, likeliest)]
    return shares


def right_share(base: RunningBase, count: int, sizes: Sequence[int], *, instruction: bool) -> None:
    """Print how often the task's own expert comes first, by task and number of examples."""
    shares = []
    for own, task in enumerate(EXPERTS):
        cpu = time.process_time()
        shares.append(right_of(base, own, lines_of(task, count, instruction=instruction), sizes))
        told = ", ".join(f"{size}: {first:.1%} ({alone:.1%})" for size, (first, alone) in shares[-1].items())
        print(f"    {task}: {told}; CPU {time.process_time() - cpu:.0f} s", flush=True)
    told = "with" if instruction else "without"
    print(f"{told} instruction, right expert first of {len(EXPERTS)} (by probability alone):")
    for size in sizes:
        first, alone = np.mean([share[size] for share in shares], axis=0)
        print(f"    {size} examples: {first:.1%} ({alone:.1%})", flush=True)


def duration(base: RunningBase, task: str, examples: int, *, merge: bool) -> None:
    """Print wall and CPU seconds of one trial of ten candidates, the task's own expert among them."""
    names = [task, *(name for name in EXPERTS if name != task)][:CANDIDATES]
    trial = Trial(base, [candidate(name) for name in names], lines_of(task, examples, instruction=False))
    wall, cpu = time.perf_counter(), time.process_time()
    scores = trial.run((lambda positions: True) if merge else None)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{task}, {examples} examples, {'with' if merge else 'without'} a merge: {wall:.1f} s, CPU {cpu:.1f} s")
    for score in scores:
        if score.exact_match is not None:
            what = score.kind if score.candidate is None else names[score.candidate]
            print(f"    {what}: exact {score.exact_match:.0%}, loss {score.loss:.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=10, help="test lines of every task")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 3, 5])
    parser.add_argument("--only", choices=["draws", "times"])
    parser.add_argument("--base", type=Path, help="a folder with the base model; without it the package's file")
    parser.add_argument("--instruction", action="store_true", help="draw lines with their instruction, too")
    parser.add_argument(
        "--bfloat16", action="store_true", help="draws with products in bfloat16: 2.4x as fast with AMX"
    )
    options = parser.parse_args()
    wall, cpu = time.perf_counter(), time.process_time()
    base = load_running_base(options.base) if options.base else load_running_base(gguf_folder(), gguf=GGUF)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{os.cpu_count()} cores; base loaded in {wall:.1f} s, CPU {cpu:.1f} s", flush=True)
    if options.only != "draws":
        for task in TIMED:
            for merge in (False, True):
                duration(base, task, 5, merge=merge)
    if options.only != "times":
        if options.bfloat16:
            torch.set_float32_matmul_precision("medium")
        for instruction in (False, True)[: 1 + options.instruction]:
            right_share(base, options.lines, options.sizes, instruction=instruction)


if __name__ == "__main__":
    main()
