"""Adapters whose ΔW is like that of a given one: by sketches, which are rows, and then exactly, from the files."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from django.db.models import QuerySet, prefetch_related_objects
from numpy.typing import NDArray

from lora.layout import Layout
from lora.prototypes.delta_sketch import delta_sketch
from lora.similarity import inner_product
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
    heads = [head for head, _ in sketch_cosines(user, adapter)[:SHORTLIST]]
    revisions = Revision.objects.select_related("adapter").defer("modules").in_bulk(heads)
    shortlist = [revisions[head] for head in heads if head in revisions]
    found = [
        {"adapter": revision.adapter.full_name, "score": round(score, DECIMALS)}
        for revision, score in (_exact(adapter.head, shortlist) if shortlist else ())
    ]
    return sorted(found, key=lambda match: (-match["score"], match["adapter"]))[:k]


def by_sketch(user: Caller, adapter: Adapter, k: int) -> list[dict[str, Any]]:
    """`[{adapter, score}]` by the cosine of the sketches alone, which reads no file."""
    best = sketch_cosines(user, adapter)[:k]
    names = dict(Adapter.objects.filter(head__in=[head for head, _ in best]).values_list("head_id", "full_name"))
    found = [{"adapter": names[head], "score": round(cosine, DECIMALS)} for head, cosine in best if head in names]
    return sorted(found, key=lambda match: (-match["score"], match["adapter"]))


def sketch_cosines(user: Caller, adapter: Adapter) -> list[tuple[int, float]]:
    """The other adapters of the base model that a caller may see, as `(head, cosine of the sketches)`, best first.

    Those that change nothing, or have no sketch, are left out; where that is the adapter itself, there are none.
    """
    own = DeltaSketch.objects.filter(revision_id=adapter.head_id, revision__norm__gt=0).first()
    others = visible_adapters(user).filter(base_model=adapter.base_model, head__norm__gt=0).exclude(pk=adapter.pk)
    rows = others.filter(head__delta_sketch__isnull=False).order_by("-pk")
    found = list(rows.values_list("head_id", "head__delta_sketch__vector")) if own else []
    if not found:
        return []
    vectors = np.stack([_vector(data) for _, data in found])
    scores = _directions(vectors) @ _directions(_vector(own.vector))
    return [(found[place][0], float(scores[place])) for place in np.argsort(-scores, kind="stable")]


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


def _directions(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """The rows (…, dim) at length 1; zeros, of a ΔW that float32 rounds to nothing, stay."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def sketch_rows(revision: Revision) -> NDArray[np.float32] | None:
    """(1, dim), as it is stored; None where the revision has no sketch."""
    own = DeltaSketch.objects.filter(revision=revision).first()
    return None if own is None else _vector(own.vector)[None]
