"""Adapters whose ΔW is like that of a given one: a shortlist by sketches, then the exact cosine from the files."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from django.db.models import QuerySet, prefetch_related_objects
from numpy.typing import NDArray

from lora.layout import Layout
from lora.similarity import delta_sketch, inner_product
from lora.weights import AdapterFile
from registry.intake import WEIGHTS
from registry.merges import local_file
from registry.models import Adapter, Revision
from registry.queries import Caller, visible_adapters
from retrieval.models import DeltaSketch
from retrieval.search import DECIMALS

SHORTLIST = 50
# Of files that one answer reads: of large adapters it compares fewer.
MAX_READ_BYTES = 1_000_000_000


def store_sketch(revision: Revision, path: Path, layout: Layout) -> None:
    """Store the sketch of a revision's weights file. Of a DoRA adapter there is none: its ΔW is not B·A."""
    if any(module.magnitude_name for module in layout.modules.values()):
        return
    with AdapterFile(path, layout) as file:
        vector = delta_sketch(file)
    row = DeltaSketch(revision=revision, vector=vector.astype("<f4").tobytes())
    # One statement; a job that runs again finds the same sketch stored.
    DeltaSketch.objects.bulk_create([row], ignore_conflicts=True)


def lacking() -> QuerySet[Revision]:
    """The revisions that can be compared with and have no sketch yet."""
    return Revision.objects.filter(state=Revision.State.READY, head_of__isnull=False, delta_sketch=None)


def by_delta(user: Caller, adapter: Adapter, k: int) -> list[dict[str, Any]]:
    """`[{adapter, score}]` by the cosine of the whole ΔW, of those that the sketches say are the SHORTLIST most alike.

    Of the same base model; where one of two lacks a module, it has ΔW = 0 there. Raises: BlobDamaged, StoreUnavailable.
    """
    own = DeltaSketch.objects.filter(revision_id=adapter.head_id).first()
    if own is None or not adapter.head.norm:
        return []
    found = [
        {"adapter": revision.adapter.full_name, "score": round(score, DECIMALS)}
        for revision, score in _exact(adapter.head, _shortlist(user, adapter, _vector(own.vector)))
    ]
    return sorted(found, key=lambda match: (-match["score"], match["adapter"]))[:k]


def _shortlist(user: Caller, adapter: Adapter, own: NDArray[np.float32]) -> list[Revision]:
    """Heads of other adapters, the most alike by sketch first."""
    others = visible_adapters(user).filter(base_model=adapter.base_model, head__norm__gt=0).exclude(pk=adapter.pk)
    rows = list(others.filter(head__delta_sketch__isnull=False).values_list("head_id", "head__delta_sketch__vector"))
    if not rows:
        return []
    vectors = np.stack([_vector(data) for _, data in rows])
    lengths = np.linalg.norm(vectors, axis=1)
    scores = vectors @ own / np.where(lengths > 0, lengths, 1)
    best = [rows[i][0] for i in np.argsort(-scores, kind="stable")[:SHORTLIST]]
    revisions = Revision.objects.select_related("adapter").defer("modules").in_bulk(best)
    return [revisions[head] for head in best if head in revisions]


def _exact(own: Revision, others: list[Revision]) -> Iterator[tuple[Revision, float]]:
    """The exact cosine of each, in order, until so many bytes have been read."""
    prefetch_related_objects([own, *others], "files__blob")
    unread = MAX_READ_BYTES
    with ExitStack() as outer:
        item = local_file(own, outer)
        mine = outer.enter_context(AdapterFile(item.weights_path, item.layout))
        for revision in others:
            unread -= revision.file(WEIGHTS).blob.size_bytes
            if unread < 0:
                return
            with ExitStack() as stack:
                item = local_file(revision, stack)
                other = stack.enter_context(AdapterFile(item.weights_path, item.layout))
                yield revision, inner_product(mine, other) / (own.norm * revision.norm)


def _vector(data: Any) -> NDArray[np.float32]:
    return np.frombuffer(data, dtype="<f4")
