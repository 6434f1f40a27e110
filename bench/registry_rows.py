"""A registry of many adapters written straight into the tables, as if that many uploads had been admitted."""

import random
from functools import cache
from typing import Any

import numpy as np

DIM = 384
CHUNK = 500
OWNERS = 400
TAGS = 300
TOPICS = 40
VARIANTS = 4
BASES = [
    ("meta-llama/Llama-3.1-8B-Instruct", 32, 7, 4096),
    ("Qwen/Qwen2.5-7B-Instruct", 28, 7, 3584),
    ("mistralai/Mistral-7B-v0.3", 32, 7, 4096),
    ("google/gemma-2-2b-it", 26, 7, 2304),
    ("HuggingFaceTB/SmolLM2-135M-Instruct", 30, 4, 576),
    ("acme/wren-1b", 16, 7, 2048),
]
LICENSES = ("apache-2.0", "mit", "cc-by-4.0", "llama3.1", "")
KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
WORDS = (
    "answers translates writes summarises classifies extracts rewrites explains legal medical French German Japanese "
    "Übungen résumés SQL Python dates invoices tickets emails recipes poems tables JSON headlines short long careful"
).split()


def fill(count: int, seed: int = 0) -> None:
    """`count` published adapters of OWNERS owners: facts of 120 to 224 modules, tags, samples, centroids."""
    from django.db import transaction

    from registry.changes import next_seq
    from retrieval.encoders import current_encoder
    from retrieval.snapshots import build_if_due
    from retrieval.spaces import space_of

    dice = random.Random(seed)
    space = space_of(current_encoder())
    namespaces = _namespaces()
    tags = [f"{dice.choice(WORDS).lower()}-{number}" for number in range(TAGS)]
    samples = _sample_blob()
    for start in range(0, count, CHUNK):
        with transaction.atomic():
            numbers = range(start, min(start + CHUNK, count))
            _write(numbers, dice, namespaces, tags, samples, space, next_seq())
    build_if_due()


def _namespaces() -> list[Any]:
    from django.contrib.auth.models import User

    from registry.models import Namespace

    users = User.objects.bulk_create(User(username=f"team-{number:03}") for number in range(OWNERS))
    return Namespace.objects.bulk_create(Namespace(name=user.username, key=user.username, owner=user) for user in users)


def _sample_blob() -> Any:
    from registry.samples import dump_samples
    from registry.storage import put_bytes

    return put_bytes(dump_samples([{"input": f"Question {number}?"} for number in range(20)]))


def _write(
    numbers: range,
    dice: random.Random,
    namespaces: list[Any],
    tags: list[str],
    samples: Any,
    space: Any,
    seq: int,
) -> None:
    from registry.listing import index_adapters
    from registry.models import Adapter, Revision, RevisionFile
    from retrieval.models import Prototype

    adapters, shapes = [], []
    for number in numbers:
        base = dice.choices(BASES, weights=(8, 6, 4, 3, 2, 1))[0]
        # A few owners have many adapters, most have few.
        namespace = namespaces[int(len(namespaces) * dice.random() ** 3)]
        name = f"{dice.choice(WORDS)}-{number:05}".encode("ascii", "ignore").decode()
        shapes.append(base)
        adapters.append(
            Adapter(
                namespace=namespace,
                name=name,
                full_name=f"{namespace.name}/{name}",
                key=f"{namespace.name}/{name}".lower(),
                visibility="private" if dice.random() < 0.05 else "public",
                description=" ".join(dice.choices(WORDS, k=dice.randint(8, 60))),
                license=dice.choices(LICENSES, weights=(5, 4, 2, 3, 2))[0],
                tags=sorted({tags[int(TAGS * dice.random() ** 2)] for _ in range(dice.randint(0, 8))}),
                base_model=base[0],
                downloads=int(dice.paretovariate(0.7)),
                change_seq=seq,
            )
        )
    Adapter.objects.bulk_create(adapters)
    revisions = Revision.objects.bulk_create(
        Revision(
            adapter=adapter,
            commit=f"{adapter.pk:040x}",
            state="ready",
            base_model=adapter.base_model,
            norm=dice.lognormvariate(1, 0.5),
            facts=_facts(shape, dice),
        )
        for adapter, shape in zip(adapters, shapes, strict=True)
    )
    for adapter, revision in zip(adapters, revisions, strict=True):
        adapter.head = revision
    Adapter.objects.bulk_update(adapters, ["head"], batch_size=100)
    sampled = [revision for revision in revisions if dice.random() < 0.9]
    RevisionFile.objects.bulk_create(
        RevisionFile(revision=revision, path="samples.jsonl", blob=samples) for revision in sampled
    )
    vectors = _vectors(len(sampled), numbers.start)
    Prototype.objects.bulk_create(
        Prototype(revision=revision, kind=kind, space=space, count=1, dim=DIM, vectors=vector.tobytes())
        for revision, vector in zip(sampled, vectors, strict=True)
        for kind in ("centroid", "samples")
    )
    index_adapters(adapter.pk for adapter in adapters)


def _facts(base: tuple[str, int, int, int], dice: random.Random) -> dict[str, Any]:
    rank = dice.choice((4, 8, 8, 16, 16, 32, 64))
    modules = _modules(base, rank, dice.randrange(VARIANTS))
    width = base[3]
    return {
        "peft_type": "LORA",
        "rank": rank,
        "alpha": 2 * rank,
        "scaling": 2.0,
        "dtype": "bfloat16",
        "size_bytes": len(modules) * 2 * rank * width * 2,
        "parameters": len(modules) * 2 * rank * width,
        "modules_bound": len(modules),
        "modules_in_base": len(modules),
        "modules": modules,
        "tensor_digest": f"{dice.getrandbits(256):064x}",
    }


@cache
def _modules(base: tuple[str, int, int, int], rank: int, variant: int) -> list[dict[str, Any]]:
    """The facts of the modules, of which there are a few variants: drawing them all anew would take minutes."""
    _, layers, kinds, width = base
    dice = random.Random(variant)
    return [
        {
            "path": f"model.layers.{layer}.{'self_attn' if kind < 4 else 'mlp'}.{KINDS[kind]}",
            "rank": rank,
            "d_in": width,
            "d_out": width,
            "scaling": 2.0,
            "norm": round(dice.random(), 6),
            "sigma": sorted((round(dice.random(), 6) for _ in range(min(rank, 16))), reverse=True),
            "stable_rank": round(1 + dice.random(), 6),
        }
        for layer in range(layers)
        for kind in range(kinds)
    ]


def _vectors(count: int, seed: int) -> Any:
    centres = np.random.default_rng(0).normal(size=(TOPICS, DIM))
    dice = np.random.default_rng(seed + 1)
    rows = centres[dice.integers(TOPICS, size=count)] + 0.7 * dice.normal(size=(count, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("<f4")
