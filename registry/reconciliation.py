"""Database against store: what is missing, damaged, or there for nobody; and how orphans are removed.

A blob in work has a row that was touched lately (`registry.storage.put_file` touches before it stores), so that only
what nobody has touched for long and nothing refers to is an orphan.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import reduce
from operator import or_
from pathlib import Path

from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from registry.errors import BlobDamaged
from registry.models import Blob
from registry.storage import check_blob, local_path, store

logger = logging.getLogger(__name__)


@dataclass
class Differences:
    """Digests by what is wrong with them, and how much was looked at."""

    # Something refers to it, and the store does not have it, or other bytes.
    damaged: list[str] = field(default_factory=list)
    # Nothing refers to it, and nobody has touched it since the moment given.
    orphans: list[str] = field(default_factory=list)
    # Nothing refers to it yet, or any more.
    in_work: list[str] = field(default_factory=list)
    checked: int = 0


def reconcile(before: datetime, *, deep: bool = False) -> Differences:
    """Compare every row with every object.

    Args:
        before: what was touched later may still be in work.
        deep: read and hash every object that something refers to.
    Raises: StoreUnavailable.
    """
    objects = {found.sha256: found for found in store().walk()}
    found = Differences()
    for blob in unreferenced().iterator():
        objects.pop(blob.sha256, None)
        (found.orphans if blob.touched_at < before else found.in_work).append(blob.sha256)
    for blob in referenced().iterator():
        objects.pop(blob.sha256, None)
        found.checked += 1
        if not _is_whole(blob, deep=deep):
            found.damaged.append(blob.sha256)
    for sha256, stored in objects.items():
        if not Blob.objects.filter(pk=sha256).exists():
            (found.orphans if stored.stored_at < before else found.in_work).append(sha256)
    return found


def _is_whole(blob: Blob, *, deep: bool) -> bool:
    try:
        check_blob(blob)
        if deep:
            with local_path(blob):
                pass
    except BlobDamaged:
        return False
    return True


def delete_orphans(before: datetime) -> Iterator[str]:
    """Remove orphans, row and object; safe while the site serves. Yields: each digest that is gone.

    Raises: StoreUnavailable; what was yielded before is gone, everything else is as it was.
    """
    _adopt(before)
    for blob in unreferenced().filter(touched_at__lt=before):
        if _delete(blob.sha256, before):
            yield blob.sha256


def _adopt(before: datetime) -> None:
    """Give objects without a row one, so that there is something to lock."""
    old = [found for found in store().walk() if found.stored_at < before]
    known = set(Blob.objects.values_list("sha256", flat=True))
    rows = [
        Blob(sha256=o.sha256, size_bytes=o.size_bytes, touched_at=o.stored_at) for o in old if o.sha256 not in known
    ]
    Blob.objects.bulk_create(rows, ignore_conflicts=True, batch_size=500)


def _delete(sha256: str, before: datetime) -> bool:
    """Remove one orphan under the lock of its row, for which an upload of the same content waits before it stores."""
    try:
        with transaction.atomic():
            orphan = unreferenced().select_for_update(of=("self",)).filter(pk=sha256, touched_at__lt=before).first()
            if orphan is None:
                return False
            orphan.delete()
            # The database has the last word on references, and before the object goes.
            connection.check_constraints([Blob._meta.db_table])
            store().delete(sha256)
    except IntegrityError:
        return False
    logger.info("Deleted orphan %s of %d bytes, last touched %s", sha256, orphan.size_bytes, orphan.touched_at)
    return True


def referenced() -> QuerySet[Blob]:
    """Blobs that a row of any model refers to."""
    return Blob.objects.filter(_is_referenced())


def unreferenced() -> QuerySet[Blob]:
    """Blobs that no row of any model refers to."""
    return Blob.objects.exclude(_is_referenced())


def _is_referenced() -> Q:
    # Also of relations without a name on this side, which `related_objects` leaves out.
    relations = Blob._meta.get_fields(include_hidden=True)
    fields = [relation.field for relation in relations if relation.auto_created and not relation.concrete]
    rows = [field.model.objects.filter(**{field.name: OuterRef("pk")}) for field in fields]
    return reduce(or_, (Q(Exists(some)) for some in rows))


def delete_unfinished(before: datetime) -> int:
    """Remove what killed processes have left: half writes in the store, spooled uploads, scratch. Returns: how many."""
    count = store().delete_unfinished(before)
    for folder in (settings.UPLOAD_DIR, settings.SCRATCH_DIR):
        for path in sorted(Path(folder).rglob("*"), reverse=True):
            if path.lstat().st_mtime < before.timestamp():
                count += _remove(path)
    return count


def _remove(path: Path) -> bool:
    """Remove a file, or a folder that is empty by now."""
    try:
        path.rmdir() if path.is_dir() else path.unlink()
    except OSError:
        return False
    return True
