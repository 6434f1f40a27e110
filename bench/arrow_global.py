"""How often the zoo's own expert is found by routers that look inside, with the instruction line and without.

    python bench/arrow_global.py [--lines 15] [--routers arrow_global …] [--with-samples]

Three pools: the 12 experts as they are; with every second one cut to rank 4 and every third to q_proj and v_proj; and
both together, where either of a task's two is right. Routers that need samples or gates have the first pool alone.
With samples, arrow_global is asked once more on the first pool where all experts have some, and where only every second
one has. Prints top-1 and top-3 in percent.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import django
import numpy as np
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.bundles import read_examples
from examples.smollm2 import load_base
from lora.config import parse_config
from lora.generic_texts import GENERIC_TEXTS
from lora.header import read_header
from lora.hybrid.evaluation import FittedPool
from lora.layout import read_layout
from lora.module_routers import MODULE_ROUTERS, Expert, States
from lora.module_routers.arrow_global import baselines, by_samples
from lora.prototypes.activations import activations
from lora.prototypes.dam import late_states
from lora.prototypes.spectral import spectral_file
from lora.runtime.loading import as_running_base
from lora.runtime.probe import RunningBase
from lora.runtime.states import module_states

ZOO = Path(__file__).resolve().parents[1] / "examples" / "zoo"
FROM_WEIGHTS = ("arrow_global", "arrow", "spectr")
FROM_SAMPLES = ("phatgoose", "activation", "dam")
EVERY = (*FROM_WEIGHTS, *FROM_SAMPLES)
CUT_RANK = 4


@dataclass(frozen=True)
class Question:
    """A test line of a task, as it is and without its first line, which is the instruction."""

    own: int
    full: str
    bare: str


def spectral_rows(folder: Path) -> dict[str, Any]:
    """Rows σᵢ·vᵢᵀ of an expert's modules."""
    weights = folder / "adapter_model.safetensors"
    with weights.open("rb") as stream:
        header = read_header(stream, weights.stat().st_size)
    layout = read_layout(header, parse_config((folder / "adapter_config.json").read_bytes()))
    return {path: rows.numpy() for path, rows in spectral_file(weights, layout).items()}


def mixed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same experts with mixed ranks and targets; the first rows are those of the best approximation."""
    pool = []
    for i, modules in enumerate(rows):
        kept = {path: r for path, r in modules.items() if i % 3 or path.endswith(("q_proj", "v_proj"))}
        pool.append({path: r[:CUT_RANK] if i % 2 else r for path, r in kept.items()})
    return pool


def as_experts(rows: list[dict[str, Any]], background: list[States], router: str) -> list[Expert]:
    """What a router compares with: all rows, or the first ones at length 1 with their baselines."""
    if router == "spectr":
        return [Expert(modules) for modules in rows]
    first = [{path: r[0] / np.linalg.norm(r[0]) for path, r in modules.items()} for modules in rows]
    return [Expert(vectors, baselines(background, vectors)) for vectors in first]


def from_samples(router: str, base: RunningBase, paths: list[str]) -> Iterator[Expert]:
    """The experts as they are, with what is made of their samples."""
    for folder in folders():
        if router == "phatgoose":
            gates = load_file(folder / "gates.safetensors")
            yield Expert({path: gate.float().numpy() for path, gate in gates.items()})
            continue
        examples = read_examples(folder / "samples.jsonl")
        yield Expert(activations(base, paths, examples) if router == "activation" else late_states(base, examples))


def questions(lines: int) -> Iterator[Question]:
    for own, folder in enumerate(folders()):
        for example in read_examples(folder / "test.jsonl")[:lines]:
            yield Question(own, example.input, example.input.partition("\n")[2])


def with_samples(asked: list[Question], scores: dict[str, np.ndarray]) -> None:
    """What becomes of the scores (questions, experts) of the two forms once samples count."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    from retrieval.encoders import current_encoder
    from retrieval.hybrid import encoded_texts

    encode = partial(encoded_texts, current_encoder())
    n = len(folders())
    own = np.array([question.own for question in asked])
    shown = [read_examples(folder / "samples.jsonl") for folder in folders()]
    pools = {
        places: FittedPool([[one.input for one in shown[i]] for i in places], encode)
        for places in (tuple(range(n)), tuple(range(0, n, 2)), tuple(range(1, n, 2)))
    }
    for form, known in scores.items():
        texts = [getattr(question, form) for question in asked]
        found: dict[str, list[int]] = {}
        for places, pool in pools.items():
            for row, own_place, density, judgement in zip(known, own, *pool.scores(texts), strict=True):
                posterior = np.zeros(n)
                posterior[list(places)] = pool.space.posterior(density)
                fused = row + by_samples(posterior, judgement.fits)
                who = "all" if len(places) == n else "half, own too" if own_place in places else "half, own not"
                found.setdefault(who, []).append(int((fused > fused[own_place]).sum()))
        for who, ranks in found.items():
            show(f"samples: {who}", "arrow_global", form, ranks)


def show(pool: str, router: str, form: str, ranks: list[int]) -> None:
    top_1, top_3 = (100 * np.mean(np.array(ranks) < depth) for depth in (1, 3))
    print(f"{pool:22} {router:13} {'with' if form == 'full' else 'without'} instruction: {top_1:5.1f} {top_3:5.1f}")


def folders() -> list[Path]:
    return sorted(path for path in ZOO.iterdir() if path.is_dir())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=15)
    parser.add_argument("--routers", nargs="+", default=EVERY, choices=EVERY)
    parser.add_argument("--with-samples", action="store_true")
    options = parser.parse_args()
    asked = list(questions(options.lines))
    torch.set_num_threads(2)
    base = as_running_base(*load_base())
    rows = [spectral_rows(folder) for folder in folders()]
    paths = sorted({path for modules in rows for path in modules})
    background = [module_states(base, text, paths) for text in GENERIC_TEXTS]
    pools = {"as they are": rows, "mixed": mixed(rows), "both": rows + mixed(rows)}
    compared = {
        (name, router): as_experts(pool, background, router)
        for name, pool in pools.items()
        for router in options.routers
        if router in FROM_WEIGHTS
    }
    for router in options.routers:
        if router in FROM_SAMPLES:
            compared["as they are", router] = list(from_samples(router, base, paths))
    print(f"{len(asked)} lines, {len(rows)} experts", flush=True)
    ranks: dict[tuple[str, str, str], list[int]] = {}
    by_weights: dict[str, list[np.ndarray]] = {"full": [], "bare": []}
    for question in asked:
        for form in ("full", "bare"):
            states = module_states(base, getattr(question, form), paths)
            for (kind, router), experts in compared.items():
                made = MODULE_ROUTERS.get(router).run(MODULE_ROUTERS.parse(router, {}))
                scores = made.rank(states, experts).scores
                own = scores[question.own :: len(rows)].max()
                ranks.setdefault((kind, router, form), []).append(int((scores > own).sum()))
                if (kind, router) == ("as they are", "arrow_global"):
                    by_weights[form].append(scores)
    for (kind, router, form), found in ranks.items():
        show(kind, router, form, found)
    if options.with_samples:
        with_samples(asked, {form: np.array(rows) for form, rows in by_weights.items()})


if __name__ == "__main__":
    main()
