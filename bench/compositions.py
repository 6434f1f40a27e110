"""Gates of each type trained over four experts of the zoo: loss before and after, and exact match on mixed prompts.

    python bench/compositions.py [--types lora_flow …] [--steps 100] [--lines 25] [--experts antonym …]

The gates learn from the experts' own samples; what is asked is their test lines, without saying whose they are: alone,
and after a solved line of another of the tasks. Beside the trained gates stand the base alone, the experts merged
equally, and each line's own expert. Prints percent of the lines answered exactly. `twin_merging` mixes merges of the
experts, and is measured by `manage.py evaluate --compositions`.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.bundles import FORMS, experts, measured, questions, read_examples
from examples.smollm2 import load_base
from lora.compositions import COMPOSITIONS
from lora.examples import Example
from lora.losses import ends
from lora.runtime.adapted import AdaptedModel
from lora.runtime.composed import Composition
from lora.runtime.gate_starts import STARTS
from lora.runtime.gate_training import changes_of, train_gates
from lora.runtime.loading import as_running_base, in_bfloat16
from lora.runtime.probe import RunningBase
from lora.runtime.text import LINE, PROMPT
from lora.weights import AdapterFile

FOUR = ("antonym", "date-format", "pluralise", "roman-numerals")
TYPES = tuple(kind for kind in STARTS if kind != "twin_merging")


Run = Callable[[int, Example], AbstractContextManager[Any]]


def composition(kind: str, tensors: dict[str, torch.Tensor], files: list[AdapterFile]) -> Composition:
    """What a worker stores, as the archive's runtime reads it."""
    gates: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        place, _, part = name.rpartition(".")
        gates.setdefault(place, {})[part] = tensor
    paths = {path for file in files for path in file.layout.modules}
    places = {place: [path for path in paths if f"{path}.".startswith(f"{place}.")] for place in gates}
    names, params = [str(place) for place in range(len(files))], vars(COMPOSITIONS.parse(kind, {}))
    return Composition(kind, params, COMPOSITIONS.get(kind).traits["reads"], names, gates, places, changes_of(files))


def trained(kind: str, files: list[AdapterFile], samples: list[list[Example]], steps: int) -> Composition:
    """As a worker trains it, with the base in bfloat16."""
    started = time.process_time()
    base = in_bfloat16(as_running_base(*load_base()))
    found = train_gates(base, kind, vars(COMPOSITIONS.parse(kind, {})), files, samples, steps=steps)
    first, last = ends(found.losses)
    seconds = time.process_time() - started
    print(f"{kind}: loss of ten steps {first:.3f} first, {last:.3f} last ({seconds:.0f} CPU s)", flush=True)
    return composition(kind, found.tensors, files)


def mixing(base: RunningBase, made: Composition) -> Run:
    def run(place: int, example: Example) -> AbstractContextManager[Any]:
        tokens = base.tokens.prompt(PROMPT.replace(LINE, example.input))
        return made.on(base.model, prompt={"input_ids": torch.tensor([tokens])})

    return run


def merging(adapted: AdaptedModel, subject: str) -> Run:
    def run(place: int, example: Example) -> AbstractContextManager[Any]:
        if subject == "base":
            return nullcontext()
        weights = [1 / adapted.n] * adapted.n if subject == "uniform" else adapted.one(place).tolist()
        adapted.coefficients = adapted.numbers(weights)
        return adapted

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", nargs="+", choices=TYPES, default=TYPES)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--lines", type=int, default=25)
    parser.add_argument("--experts", nargs="+", default=FOUR)
    options = parser.parse_args()
    chosen = [(folder, item) for folder, item in experts() if folder.name in options.experts]
    samples = [read_examples(folder / "samples.jsonl") for folder, _ in chosen]
    asked = questions(options.lines, [folder for folder, _ in chosen])
    with ExitStack() as stack:
        files = [stack.enter_context(AdapterFile(item.weights_path, item.layout)) for _, item in chosen]
        base = as_running_base(*load_base())
        adapted = AdaptedModel(base.model, files)

        def show(subject: str, run: Run, *, one_by_one: bool = False) -> None:
            row = {form: measured(base, asked[form], run, one_by_one=one_by_one) for form in FORMS}
            print(f"{subject}: {json.dumps(row)}", flush=True)

        for subject in ("base", "uniform", "own_expert"):
            show(subject, merging(adapted, subject))
        for kind in options.types:
            made = trained(kind, files, samples, options.steps)
            show(kind, mixing(base, made), one_by_one=made.reads == "example")


if __name__ == "__main__":
    main()
