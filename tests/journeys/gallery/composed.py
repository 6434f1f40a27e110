"""Compositions: one that a worker has trained, one that lost an expert, and more than fit on a page."""

import random
from typing import Any

LAYERS, WIDTH = 30, 576
LOSSES = [round(0.35 + 0.9 / (1 + step / 12) + 0.25 * random.Random(step).random(), 4) for step in range(100)]
CROWD = 1_000


def compositions(ada: Any) -> str:
    """Two of ada's. Returns: the id of the job that has trained the first one."""
    from registry.models import Job, Revision
    from retrieval.models import CompositionExpert

    told = {"steps": len(LOSSES), "seed": 0, "losses": LOSSES}
    layers = [f"model.layers.{layer}" for layer in range(LAYERS)]
    sizes = {"weight": (2, WIDTH), "bias": (2,)}
    flow = _made(ada, "ada/dates-and-antonyms", "lora_flow", layers, sizes, told)
    kept = _made(ada, "ada/deferring", "co_llm", layers[-1:], {"weight": (1, WIDTH), "bias": (1,)}, {})
    retired = Revision.objects.get(adapter__full_name="ada/retired")
    CompositionExpert.objects.create(composition=kept, position=2, revision=retired)
    result = {"composition": flow.full_name, "revision": flow.commit} | told
    payload = {"name": flow.full_name}
    return str(Job.objects.create(kind="compose", owner=ada, payload=payload, status="succeeded", result=result).pk)


def _made(ada: Any, name: str, kind: str, places: list[str], sizes: dict[str, tuple[int, ...]], told: Any) -> Any:
    import torch
    from safetensors.torch import save_file

    from registry.intake import NewFile
    from registry.storage import scratch_folder, sha256_of
    from retrieval.composing import admit, parse_order, prepare

    said = {"name": name, "type": kind, "description": "Dates in words, and words that mean the opposite."}
    order = parse_order(ada, said | {"adapters": ["ada/date-format", "bo/antonym"]})
    with scratch_folder() as folder:
        path = folder / "gates.safetensors"
        save_file({f"{place}.{part}": torch.zeros(size) for place in places for part, size in sizes.items()}, path)
        return admit(ada, prepare(order, NewFile(path, sha256_of(path)), told))[0]


def crowd() -> None:
    """A thousand, of all types, over adapters that are there."""
    from lora.compositions import COMPOSITIONS
    from registry.models import Revision
    from retrieval.models import Composition, CompositionExpert

    dice = random.Random(0)
    by_base: dict[str, list[Any]] = {}
    for revision in Revision.objects.select_related("adapter__namespace").defer("modules"):
        by_base.setdefault(revision.base_model, []).append(revision)
    sets = [dice.sample(dice.choice(list(by_base.values())), dice.randint(2, 7)) for _ in range(CROWD)]
    rows = Composition.objects.bulk_create(
        Composition(
            namespace=experts[0].adapter.namespace,
            full_name=f"{experts[0].adapter.namespace.name}/set-{number:04}",
            key=f"{experts[0].adapter.namespace.name}/set-{number:04}",
            commit=f"{number:040x}",
            type=dice.choice(COMPOSITIONS.names()),
            base_model=experts[0].base_model,
            training={"steps": len(LOSSES), "seed": 0, "losses": LOSSES} if dice.random() < 0.3 else {},
        )
        for number, experts in enumerate(sets)
    )
    CompositionExpert.objects.bulk_create(
        CompositionExpert(composition=row, position=place, revision=revision)
        for row, experts in zip(rows, sets, strict=True)
        for place, revision in enumerate(experts)
    )
