"""The space in service, and the encoder of a space: queries meet vectors of one space only.

`ServedSpace` says which space answers. It follows ENCODER_MODEL with a delay: the job `reembed` computes every expert's
vectors in the new space first (`retrieval.reembedding`), and the old space answers until then.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

from django.db import connection
from django.db.models import Exists, OuterRef, QuerySet

from registry.changes import next_seq
from registry.errors import NotReady
from registry.models import Revision
from registry.samples import PATH as SAMPLES
from retrieval.encoders import Encoder, current_encoder, find_encoder
from retrieval.models import Prototype, ServedSpace, Space

logger = logging.getLogger(__name__)


def served_space_id() -> str:
    """The space that answers queries; before there are any vectors, that of ENCODER_MODEL. Raises: NotReady."""
    served = ServedSpace.objects.filter(space__isnull=False).values_list("space_id", flat=True).first()
    return served or current_encoder().space_id


def encoder_of(space_id: str) -> Encoder:
    """The encoder that makes vectors of a space. Raises: NotReady: its model is not where it was."""
    for find in (current_encoder, lambda: _remembered(space_id)):
        try:
            if (encoder := find()).space_id == space_id:
                return encoder
        except NotReady:
            continue
    raise _gone(space_id)


def _remembered(space_id: str) -> Encoder:
    return find_encoder(Space.objects.filter(pk=space_id).values_list("model", flat=True).first() or "")


def _gone(space_id: str) -> NotReady:
    row = ServedSpace.objects.first()
    if row is None or row.wanted == space_id:
        return NotReady(f"The encoder of {space_id} is not there. The operator has to put its model back.")
    done = progress(row.wanted)
    return NotReady(
        f"The experts are being embedded by another encoder ({done:.0%} done), and the model of the last one is gone. "
        "Try again later.",
        retry_after_s=30,
        detail={"space": space_id, "wanted": row.wanted, "progress": round(done, 4)},
    )


def wanted_encoder() -> Encoder:
    """The encoder that is to answer queries: ENCODER_MODEL of the worker that started last. Raises: NotReady."""
    return _wanted_by(ServedSpace.objects.first())


def _wanted_by(row: ServedSpace | None) -> Encoder:
    if row is None:
        return current_encoder()
    encoder = find_encoder(row.wanted_model)
    if encoder.space_id != row.wanted:
        raise NotReady(f"ENCODER_MODEL {row.wanted_model!r} was {row.wanted} and is {encoder.space_id} here.")
    return encoder


def want(model: str) -> None:
    """Say which encoder is to answer queries, as a value of ENCODER_MODEL. Raises: NotReady: there is none."""
    encoder = find_encoder(model)
    Space.objects.filter(pk=encoder.space_id).update(model=encoder.model)
    values = {"wanted_model": encoder.model, "wanted": encoder.space_id}
    ServedSpace.objects.update_or_create(pk=1, defaults=values)


def encoders_in_use() -> list[Encoder]:
    """The encoders whose vectors a new expert needs: the one in service and, while it is being replaced, the next.

    Raises: NotReady: none is to be had.
    """
    found: dict[str, Encoder] = {}
    problem: NotReady | None = None
    row = ServedSpace.objects.first()
    served = row.space_id if row and row.space_id else None
    finders: tuple[Callable[[], Encoder], ...] = (
        lambda: encoder_of(served or served_space_id()),
        lambda: _wanted_by(row),
    )
    for find in finders:
        try:
            encoder = find()
            found[encoder.space_id] = encoder
        except NotReady as error:
            problem = problem or error
            logger.warning("New experts are not embedded by one of two encoders: %s", error.message)
    if problem and not found:
        raise problem
    return list(found.values())


def space_of(encoder: Encoder) -> Space:
    """The row of an encoder's space; the first one there is goes into service. Loads the model for a new one."""
    any_served = Exists(ServedSpace.objects.filter(space__isnull=False))
    space = Space.objects.annotate(any_served=any_served).filter(pk=encoder.space_id).first()
    if space and space.any_served:
        return space
    if space is None:
        space = Space.objects.get_or_create(pk=encoder.space_id, defaults=encoder.describe())[0]
    first = {"space": space, "wanted_model": space.model, "wanted": space.pk}
    row, created = ServedSpace.objects.get_or_create(pk=1, defaults=first)
    if not created and row.space_id is None:
        ServedSpace.objects.filter(pk=1, space=None).update(space=space)
    return space


def heads() -> QuerySet[Revision]:
    """The revisions that text routers are to find: heads, not yanked, with samples."""
    return Revision.objects.filter(head_of__yanked_at=None, head_of__isnull=False, files__path=SAMPLES)


def lacking(space_id: str) -> QuerySet[Revision]:
    """The heads that have no vectors in a space."""
    return heads().exclude(
        Exists(Prototype.objects.filter(revision=OuterRef("pk"), kind="centroid", space_id=space_id))
    )


def progress(space_id: str) -> float:
    """The part of the heads that has vectors in a space, 0..1."""
    total = heads().count()
    return 1 - lacking(space_id).count() / total if total else 1.0


def next_space() -> dict[str, Any] | None:
    """`{space, progress}` of the space that is to replace the one in service, or None."""
    row = ServedSpace.objects.first()
    if row is None or row.space_id in (None, row.wanted):
        return None
    return {"space": row.wanted, "progress": round(progress(row.wanted), 4)}


def serve(space: Space, skipped: list[int]) -> bool:
    """Put a space into service if every head but those `skipped` has vectors in it. Call inside a transaction.

    Nothing is published meanwhile, because the change counter is locked; and every process follows at its next
    request, because the switch is a change like any other.

    Returns: whether it is in service; also false where another one is wanted by now.
    """
    next_seq()
    if lacking(space.pk).exclude(pk__in=skipped).exists():
        return False
    return bool(ServedSpace.objects.filter(pk=1, wanted=space.pk).update(space=space))


_warming = threading.Lock()


def warm_up() -> None:
    """Start loading the model in the background, once: somebody is about to ask, and loading takes seconds."""
    if _warming.acquire(blocking=False):
        threading.Thread(target=_warm_up, name="warm-up", daemon=True).start()


def _warm_up() -> None:
    try:
        encoder_of(served_space_id()).encode(["warm-up"])
    except Exception:
        # The query that follows meets the same error and reports it.
        logger.warning("The encoder could not be loaded ahead of a query", exc_info=True)
    finally:
        connection.close()
