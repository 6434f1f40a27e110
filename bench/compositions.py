"""Gates of LoRA-Flow trained over four experts of the zoo: loss before and after, and exact match on mixed prompts.

    python bench/compositions.py [--steps 100] [--lines 25] [--experts antonym …]

The gates learn from the experts' own samples; what is asked is their test lines, without saying whose they are: alone,
and after a solved line of another of the tasks. Beside the trained gates stand the same gates before training, the base
alone, the experts merged equally, and each line's own expert. Prints percent of the lines answered exactly.
"""

import argparse
import json
import sys
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.bundles import FORMS, experts, measured, questions, read_examples
from examples.smollm2 import load_base
from lora.losses import ends
from lora.runtime.adapted import AdaptedModel
from lora.runtime.composed import Composition
from lora.runtime.gate_training import changes_of, layers_of, train_lora_flow
from lora.runtime.loading import as_running_base, in_bfloat16
from lora.weights import AdapterFile

FOUR = ("antonym", "date-format", "pluralise", "roman-numerals")


def composition(tensors: dict[str, torch.Tensor], files: list[AdapterFile]) -> Composition:
    """What a worker stores, as the archive's runtime reads it."""
    gates: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        place, _, part = name.rpartition(".")
        gates.setdefault(place, {})[part] = tensor
    places = layers_of({path for file in files for path in file.layout.modules})
    return Composition("lora_flow", {}, "token", list(FOUR), gates, places, changes_of(files))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--lines", type=int, default=25)
    parser.add_argument("--experts", nargs="+", default=FOUR)
    options = parser.parse_args()
    chosen = [(folder, item) for folder, item in experts() if folder.name in options.experts]
    samples = [read_examples(folder / "samples.jsonl") for folder, _ in chosen]
    with ExitStack() as stack:
        files = [stack.enter_context(AdapterFile(item.weights_path, item.layout)) for _, item in chosen]
        started = time.process_time()
        base = in_bfloat16(as_running_base(*load_base()))
        trained = train_lora_flow(base, files, samples, steps=options.steps)
        first, last = ends(trained.losses)
        seconds = time.process_time() - started
        print(f"loss of ten steps: {first:.3f} first, {last:.3f} last ({seconds:.0f} CPU s)", flush=True)
        base = as_running_base(*load_base())
        model = base.model
        adapted = AdaptedModel(model, files)
        before = composition({name: torch.zeros_like(t) for name, t in trained.tensors.items()}, files)
        after = composition(trained.tensors, files)

        def run(subject: str, place: int) -> AbstractContextManager[Any]:
            if subject in ("untrained", "lora_flow"):
                return (before if subject == "untrained" else after).on(model)
            weights = {"uniform": [1 / len(files)] * len(files), "own_expert": adapted.one(place).tolist()}
            if subject == "base":
                return nullcontext()
            adapted.coefficients = adapted.numbers(weights[subject])
            return adapted

        asked = questions(options.lines, [folder for folder, _ in chosen])
        for subject in ("base", "uniform", "untrained", "lora_flow", "own_expert"):
            row = {
                form: measured(base, asked[form], lambda place, _, s=subject: run(s, place), one_by_one=False)
                for form in FORMS
            }
            print(f"{subject}: {json.dumps(row)}", flush=True)


if __name__ == "__main__":
    main()
