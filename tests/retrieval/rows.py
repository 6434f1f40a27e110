"""Experts written straight into the tables, for tests that are about finding them."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from django.contrib.auth import get_user_model
from django.db import transaction
from numpy.typing import NDArray

from registry.changes import next_seq
from registry.listing import index_adapters
from registry.models import Adapter, Namespace, Revision, RevisionFile
from registry.samples import PATH, dump_samples
from registry.storage import put_bytes
from retrieval.encoders import current_encoder
from retrieval.models import Prototype, Space
from retrieval.prototypes import store_text

DIM = 384


def make_user(name: str) -> Any:
    return get_user_model().objects.get_or_create(username=name)[0]


def make_expert(full_name: str, samples: Sequence[str] = (), **columns: Any) -> Adapter:
    """A published adapter of the user who is called like its namespace, with its samples embedded."""
    owner, name = full_name.split("/")
    namespace, _ = Namespace.objects.get_or_create(name=owner, key=owner.lower(), owner=make_user(owner))
    adapter = Adapter(namespace=namespace, name=name, full_name=full_name, key=full_name.lower(), **columns)
    adapter.save()
    revision = add_revision(adapter, samples)
    publish(adapter, revision)
    return adapter


def add_revision(adapter: Adapter, samples: Sequence[str] = ()) -> Revision:
    number = adapter.revisions.count()
    commit = hashlib.sha256(f"{adapter.full_name} {number}".encode()).hexdigest()[:40]
    revision = Revision.objects.create(adapter=adapter, commit=commit, state="ready", base_model=adapter.base_model)
    if samples:
        blob = put_bytes(dump_samples([{"input": text} for text in samples]))
        RevisionFile.objects.create(revision=revision, path=PATH, blob=blob)
        store_text(revision, list(samples))
    return revision


def publish(adapter: Adapter, revision: Revision | None = None, **columns: Any) -> None:
    """Change what is visible of an adapter, as the registry does: with the next position in the order."""
    with transaction.atomic():
        for column, value in columns.items():
            setattr(adapter, column, value)
        adapter.head = revision or adapter.head
        adapter.change_seq = next_seq()
        adapter.save()
        index_adapters([adapter.pk])


def add_centroid(adapter: Adapter, vector: NDArray[np.float32], space: Space | None = None) -> None:
    """Give the head of an adapter without samples a centroid of one's own."""
    Prototype.objects.create(
        revision=adapter.head,
        kind="centroid",
        space=space or text_space(),
        count=1,
        dim=len(vector),
        vectors=vector.astype("<f4").tobytes(),
    )
    publish(adapter)


def text_space() -> Space:
    """The current space's row, without loading the model."""
    encoder = current_encoder()
    columns = {
        "encoder": encoder.name,
        "revision": encoder.revision,
        "pooling": "mean",
        "dim": DIM,
        "max_tokens": 256,
    }
    return Space.objects.get_or_create(pk=encoder.space_id, defaults=columns)[0]


def unit_rows(count: int, seed: int, dim: int = DIM) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
