"""Snapshots: indexes that are never changed, with a manifest row. Built by workers, read by every web process.

They only save time: what a snapshot lacks is searched exactly, and a damaged one is passed over.
"""

import hashlib
import logging
import os
from pathlib import Path

import numpy as np
from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from numpy.typing import NDArray

from registry.changes import current_seq
from registry.models import Adapter
from registry.storage import sha256_of
from retrieval import milvus
from retrieval.index import WANTED_RECALL, VectorIndex
from retrieval.models import IndexSnapshot, Prototype, Space
from retrieval.search import Index, read_vectors
from retrieval.spaces import served_space_id

logger = logging.getLogger(__name__)

Ints = NDArray[np.int64]

FORMAT = 2
# A snapshot is due when the tail outgrows both.
MIN_TAIL = 256
TAIL_SHARE = 0.1
KEPT = 2
# From here on a search of all vectors takes longer than embedding the query; a graph is built beside them.
GRAPH_FROM = 100_000
# Samples of experts, by which a graph is measured against the exact search.
MEASURED = 256
PART = 10_000


def folder() -> Path:
    return settings.DATA_DIR / "index"


def path_of(snapshot: IndexSnapshot) -> Path:
    return folder() / f"{snapshot.sha256}.faiss"


def engine() -> str:
    """What holds the vectors of snapshots."""
    return "milvus" if settings.VECTOR_ENGINE else "faiss"


def newest_id(space: str) -> int | None:
    return _snapshots(space).values_list("pk", flat=True).first()


def _snapshots(space: str) -> QuerySet[IndexSnapshot]:
    return IndexSnapshot.objects.filter(space_id=space, engine=engine(), format=FORMAT).order_by("-pk")


def load_newest(space: str) -> Index | None:
    """The newest snapshot that is what its manifest says, or None. Raises: NotReady: Milvus does not answer."""
    for snapshot in _snapshots(space)[:KEPT]:
        try:
            return _load(snapshot)
        except (OSError, ValueError) as error:
            logger.error("Snapshot %s is passed over: %s", snapshot.pk, error)
    return None


def _load(snapshot: IndexSnapshot) -> Index:
    return _load_file(snapshot) if snapshot.engine == "faiss" else _load_collection(snapshot)


def _load_collection(snapshot: IndexSnapshot) -> milvus.MilvusIndex:
    index = milvus.load(snapshot.space_id, snapshot.dim)
    if len(index) < snapshot.count:
        raise ValueError(f"{index.name} holds {len(index)} vectors, and its manifest says {snapshot.count}")
    return index


def _load_file(snapshot: IndexSnapshot) -> VectorIndex:
    path = path_of(snapshot)
    if sha256_of(path) != snapshot.sha256:
        # FAISS itself reads a file with a flipped byte without complaint.
        raise ValueError(f"{path} does not have the digest that it was published with")
    index = VectorIndex.read(path, snapshot.candidates)
    if len(index) != snapshot.count or index.dim != snapshot.dim:
        raise ValueError(f"{path} holds {len(index)} vectors of {index.dim}, not what its manifest says")
    return index


def is_due(space: str | None = None) -> bool:
    """Whether so much has changed since the newest snapshot of a space (of the one in service) that a new one pays."""
    seq, count = _snapshots(space or served_space_id()).values_list("change_seq", "count").first() or (-1, 0)
    changed = Adapter.objects.filter(change_seq__gt=seq, head__isnull=False, yanked_at=None)
    return changed.count() > max(MIN_TAIL, TAIL_SHARE * count)


def build_if_due(space: str | None = None) -> IndexSnapshot | None:
    """Publish a snapshot of all centroids that can be found in a space (in the one in service), if one is due.

    Returns: it, or None.
    """
    space = space or served_space_id()
    if not is_due(space):
        return None
    # Read first: what changes meanwhile counts as not covered.
    seq = current_seq()
    ids = np.fromiter(_findable(space, "centroid").values_list("pk", flat=True).iterator(), dtype=np.int64)
    if not len(ids):
        return None
    publish = _publish_file if engine() == "faiss" else _publish_collection
    snapshot = publish(space, ids, seq)
    _remove_old(space)
    return snapshot


def _findable(space: str, kind: str) -> QuerySet[Prototype]:
    return Prototype.objects.filter(
        kind=kind, space_id=space, revision__head_of__isnull=False, revision__head_of__yanked_at=None
    ).order_by("pk")


def _publish_collection(space: str, ids: Ints, seq: int) -> IndexSnapshot:
    """Bring the collection in step, then say so. Raises: NotReady: Milvus does not answer."""
    dim = Space.objects.values_list("dim", flat=True).get(pk=space)
    milvus.fill(space, ids, dim, read_vectors)
    columns = {"engine": "milvus", "count": len(ids), "dim": dim, "sha256": hashlib.sha256(ids.tobytes()).hexdigest()}
    return IndexSnapshot.objects.create(space_id=space, format=FORMAT, change_seq=seq, **columns)


def _built(space: str, ids: Ints) -> tuple[VectorIndex, float | None]:
    """The index, and the recall of its graph where one was tried; without the graph where that is not enough."""
    graph = len(ids) > GRAPH_FROM
    parts = (ids[start : start + PART] for start in range(0, len(ids), PART))
    index = VectorIndex.build(((part, read_vectors(part)) for part in parts), graph=graph)
    if not graph:
        return index, None
    recall = index.tune(_held_queries(space, index))
    if recall >= WANTED_RECALL:
        return index, recall
    logger.warning("A graph over %d vectors finds %.1f %% of the best: searching all", len(index), 100 * recall)
    return VectorIndex.build(index.parts(PART)), recall


def _held_queries(space: str, index: VectorIndex) -> NDArray[np.float32]:
    """Vectors (n, dim) that are not in the index: a sample each of some experts; else what lies between two of them."""
    ids = list(_findable(space, "samples").values_list("pk", flat=True))
    chosen = [ids[place] for place in np.linspace(0, len(ids) - 1, min(len(ids), MEASURED)).round().astype(int)]
    found = Prototype.objects.filter(pk__in=chosen).order_by("pk").values_list("count", "dim", "vectors").iterator(16)
    samples = [np.frombuffer(rows, dtype="<f4").reshape(count, dim)[count // 2] for count, dim, rows in found]
    if samples:
        return np.stack(samples)
    pairs = np.random.default_rng(0).integers(0, len(index), (2, MEASURED))
    between = index.vectors(pairs[0]) + index.vectors(pairs[1])
    return between / np.maximum(np.linalg.norm(between, axis=1, keepdims=True), 1e-6)


def _publish_file(space: str, ids: Ints, seq: int) -> IndexSnapshot:
    """Write the file under its digest, complete before it is visible, then its manifest."""
    index, recall = _built(space, ids)
    folder().mkdir(parents=True, exist_ok=True)
    part = folder() / f"{os.getpid()}-{seq}.part"
    index.write(part)
    with part.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    part.replace(folder() / f"{digest}.faiss")
    columns = {"count": len(index), "dim": index.dim, "candidates": index.candidates, "recall": recall}
    return IndexSnapshot.objects.create(space_id=space, format=FORMAT, sha256=digest, change_seq=seq, **columns)


def _remove_old(space: str) -> None:
    """Drop snapshots that two newer ones have replaced, and older formats."""
    kept = list(_snapshots(space).values_list("pk", flat=True)[:KEPT])
    old = IndexSnapshot.objects.filter(space_id=space, engine=engine(), format__lte=FORMAT).exclude(pk__in=kept)
    with transaction.atomic():
        removed = list(old)
        old.delete()
    _remove_files(removed)


def remove_vectors(removed: list[IndexSnapshot]) -> None:
    """Remove the vectors of a space's snapshots, whose rows are all gone. Raises: NotReady: Milvus does not answer."""
    _remove_files(removed)
    for space in {snapshot.space_id for snapshot in removed if snapshot.engine == "milvus"}:
        if settings.VECTOR_ENGINE:
            milvus.drop(space)


def _remove_files(removed: list[IndexSnapshot]) -> None:
    """Those that a manifest still names stay."""
    named = set(IndexSnapshot.objects.values_list("sha256", flat=True))
    for snapshot in removed:
        if snapshot.engine == "faiss" and snapshot.sha256 not in named:
            path_of(snapshot).unlink(missing_ok=True)
