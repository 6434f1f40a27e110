"""Exact match on mixed-task prompts when routers inside the model choose among the zoo's 12 experts for every token.

    python bench/bundles.py [--lines 6] [--subjects arrow …] [--forms alone after_another]

Every line is asked without saying whose it is: alone, and after a solved line of another task. Beside the routers stand
the base alone, all experts merged equally, and the line's own expert. Prints percent of the lines answered exactly.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.smollm2 import BASE_MODEL, load_base
from integrations.bundle import Bundle
from lora.bundles import BUNDLES, CALIBRATED
from lora.bundling import BundleBase, BundledExpert, write_bundle
from lora.check import read_pair
from lora.examples import Example
from lora.folder import find_adapter
from lora.generic_texts import GENERIC_TEXTS
from lora.layout import read_layout
from lora.module_routers.arrow_global import baselines
from lora.prototypes.activations import activations
from lora.prototypes.arrow import arrow_file
from lora.prototypes.spectral import spectral_file
from lora.recipe import MergeInput
from lora.runtime.adapted import AdaptedModel
from lora.runtime.answering import exactly_answered
from lora.runtime.loading import as_running_base
from lora.runtime.probe import RunningBase
from lora.runtime.states import module_states
from lora.runtime.text import LINE, PROMPT
from lora.weights import AdapterFile

ROOT = Path(__file__).resolve().parents[1]
ZOO = ROOT / "examples" / "zoo"
ROUTED: dict[str, tuple[str, dict[str, Any]]] = {
    "arrow": ("arrow", {}),
    "arrow_top_1": ("arrow", {"top_k": 1}),
    "arrow_calibrated": ("arrow", {"calibrated": True}),
    "arrow_calibrated_top_1": ("arrow", {"calibrated": True, "top_k": 1}),
    "arrow_global": ("arrow_global", {}),
    "spectr": ("spectr", {}),
    "activation": ("activation", {}),
    "phatgoose": ("phatgoose", {}),
}
SUBJECTS = ("base", "uniform", *ROUTED, "own_expert")
FORMS = ("alone", "after_another")
Run = Callable[[int, Example], AbstractContextManager[Any]]


def experts() -> list[tuple[Path, MergeInput]]:
    found = []
    for folder in sorted(path for path in ZOO.iterdir() if path.is_dir()):
        adapter = find_adapter(folder)
        with adapter.weights.open("rb") as stream:
            config, header = read_pair(adapter.config.read_bytes(), stream, adapter.weights.stat().st_size)
        digest = hashlib.sha256(adapter.weights.read_bytes()).hexdigest()
        item = MergeInput(adapter.weights, read_layout(header, config), config, None, f"zoo/{folder.name}", digest)
        found.append((folder, item))
    return found


def bundle_of(root: Path, base: RunningBase, name: str) -> Bundle:
    """The bundle that `POST /bundles/` makes of the zoo."""
    router, params = ROUTED[name]
    parts = []
    states = None
    for folder, item in experts():
        known, vectors = None, root / f"{folder.name}-{router}.safetensors"
        if router == "phatgoose":
            vectors = folder / "gates.safetensors"
        elif router == "activation":
            means = activations(base, sorted(item.layout.modules), read_examples(folder / "samples.jsonl"))
            save_file({path: torch.from_numpy(mean) for path, mean in means.items()}, vectors)
        elif router == "spectr":
            save_file(spectral_file(item.weights_path, item.layout), vectors)
        else:
            arrows = arrow_file(item.weights_path, item.layout)[0]
            save_file(arrows, vectors)
            if BUNDLES.get(router).run(BUNDLES.parse(router, params))["score"] in CALIBRATED:
                states = states or [module_states(base, text, sorted(arrows)) for text in GENERIC_TEXTS]
                known = baselines(states, {path: v.numpy() for path, v in arrows.items()})
        config = folder / "adapter_config.json"
        parts.append(BundledExpert(item, config, "0" * 40, vectors, {}, known))
    target = root / name
    target.mkdir()
    settings = BUNDLES.parse(router, {"uniform": False} | params)
    write_bundle(target, router, settings, parts, BundleBase(BASE_MODEL), ROOT / "integrations" / "bundle.py")
    return Bundle.load(target)


def read_examples(path: Path) -> list[Example]:
    return [Example.from_json(json.loads(line)) for line in path.read_text().splitlines()]


def questions(lines: int, folders: list[Path]) -> dict[str, list[list[Example]]]:
    """By form and task: the first test lines, and the same below the solved line of the next task."""
    tasks = [read_examples(folder / "test.jsonl")[: lines + 1] for folder in folders]
    after = []
    for i, task in enumerate(tasks):
        other = tasks[(i + 1) % len(tasks)][-1]
        solved = f"{PROMPT.replace(LINE, other.input)} {other.output}\n\n"
        after.append([Example(solved + one.input, one.output) for one in task[:lines]])
    return {"alone": [task[:lines] for task in tasks], "after_another": after}


def measured(base: RunningBase, tasks: list[list[Example]], run: Run, *, one_by_one: bool) -> str:
    """Percent right over all lines, and how many these are."""
    right = []
    for place, task in enumerate(tasks):
        for part in [[one] for one in task] if one_by_one else [task]:
            with run(place, part[0]):
                right += exactly_answered(base, part, PROMPT)
    return f"{100 * sum(right) / len(right):.1f} of {len(right)}"


class Subjects:
    """What is compared: for a line and the place of its own expert, a context in which the base answers."""

    def __init__(self, base: RunningBase, scratch: Path) -> None:
        self.base, self.scratch = base, scratch
        with ExitStack() as stack:
            files = [stack.enter_context(AdapterFile(item.weights_path, item.layout)) for _, item in experts()]
            self.adapted = AdaptedModel(base.model, files)

    def get(self, name: str) -> Run:
        n = self.adapted.n
        if name in ROUTED:
            bundle = bundle_of(self.scratch, self.base, name)
            return lambda place, example: bundle.on(self.base.model, prompt=self.prompt(example))
        if name == "own_expert":
            return lambda place, example: self.merged([float(i == place) for i in range(n)])
        return lambda place, example: self.merged([1 / n if name == "uniform" else 0.0] * n)

    def prompt(self, example: Example) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.tensor([self.base.tokens.prompt(PROMPT.replace(LINE, example.input))])}

    @contextmanager
    def merged(self, weights: list[float]) -> Iterator[None]:
        with self.adapted:
            self.adapted.coefficients = self.adapted.numbers(weights)
            yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=6)
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=SUBJECTS)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    options = parser.parse_args()
    base, asked = as_running_base(*load_base()), questions(options.lines, [folder for folder, _ in experts()])
    with tempfile.TemporaryDirectory() as scratch:
        subjects = Subjects(base, Path(scratch))
        for name in options.subjects:
            started, run = time.process_time(), subjects.get(name)
            alone = name == "arrow_global"  # chooses for each line
            row = {form: measured(base, asked[form], run, one_by_one=alone) for form in options.forms}
            print(f"{name}: {json.dumps(row)} ({time.process_time() - started:.0f} CPU s)", flush=True)


if __name__ == "__main__":
    main()
