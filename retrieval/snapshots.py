"""Snapshots: immutable index files with a manifest row. Built by workers, read by every web process.

They only save time: what a snapshot lacks is searched exactly, and a damaged one is passed over.
"""

import hashlib
import logging
import os
from pathlib import Path

import numpy as np
from django.conf import settings
from django.db import transaction

from registry.changes import current_seq
from registry.models import Adapter
from registry.storage import sha256_of
from retrieval.index import FlatIndex
from retrieval.models import IndexSnapshot, Prototype
from retrieval.spaces import served_space_id

logger = logging.getLogger(__name__)

FORMAT = 1
# A snapshot is due when the tail outgrows both.
MIN_TAIL = 256
TAIL_SHARE = 0.1
KEPT = 2


def folder() -> Path:
    return settings.DATA_DIR / "index"


def path_of(snapshot: IndexSnapshot) -> Path:
    return folder() / f"{snapshot.sha256}.faiss"


def newest_id(space: str) -> int | None:
    return _snapshots(space).values_list("pk", flat=True).first()


def _snapshots(space: str):
    return IndexSnapshot.objects.filter(space_id=space, format=FORMAT).order_by("-pk")


def load_newest(space: str) -> FlatIndex | None:
    """The newest snapshot whose file is what its manifest says, or None."""
    for snapshot in _snapshots(space)[:KEPT]:
        try:
            return _load(snapshot)
        except (OSError, ValueError) as error:
            logger.error("Snapshot %s is passed over: %s", snapshot.pk, error)
    return None


def _load(snapshot: IndexSnapshot) -> FlatIndex:
    path = path_of(snapshot)
    if sha256_of(path) != snapshot.sha256:
        # FAISS itself reads a file with a flipped byte without complaint.
        raise ValueError(f"{path} does not have the digest that it was published with")
    index = FlatIndex.read(path)
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
    rows = Prototype.objects.filter(
        kind="centroid", space_id=space, revision__head_of__isnull=False, revision__head_of__yanked_at=None
    )
    found = list(rows.order_by("pk").values_list("pk", "vectors"))
    if not found:
        return None
    vectors = np.frombuffer(b"".join(row for _, row in found), dtype="<f4").reshape(len(found), -1)
    snapshot = _publish(FlatIndex(np.array([pk for pk, _ in found]), vectors), space, seq)
    _remove_old(space)
    return snapshot


def _publish(index: FlatIndex, space: str, seq: int) -> IndexSnapshot:
    """Write the file under its digest, complete before it is visible, then its manifest."""
    folder().mkdir(parents=True, exist_ok=True)
    part = folder() / f"{os.getpid()}-{seq}.part"
    index.write(part)
    with part.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    part.replace(folder() / f"{digest}.faiss")
    return IndexSnapshot.objects.create(
        space_id=space, format=FORMAT, count=len(index), dim=index.dim, sha256=digest, change_seq=seq
    )


def _remove_old(space: str) -> None:
    """Drop snapshots that two newer ones have replaced; files that a manifest still names stay."""
    with transaction.atomic():
        old = list(_snapshots(space)[KEPT:])
        IndexSnapshot.objects.filter(pk__in=[snapshot.pk for snapshot in old]).delete()
    named = set(IndexSnapshot.objects.values_list("sha256", flat=True))
    for snapshot in old:
        if snapshot.sha256 not in named:
            path_of(snapshot).unlink(missing_ok=True)
