"""What is said about adapters, in vectors: stored at admission, made good by `reembed`, searched in a view of its own.

The text belongs to the adapter and may be edited, where samples belong to a revision for ever: beside each vector
stands the digest of what it was made of.
"""

import hashlib
import logging
import threading
from collections.abc import Iterator

import numpy as np
from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.db.models.functions import SHA256
from numpy.typing import NDArray

from lora.prototypes.description import description_text
from registry.changes import next_seq
from registry.errors import NotReady
from registry.models import Adapter, Revision
from retrieval.encoders import Encoder
from retrieval.models import DescribedText, Prototype, Space
from retrieval.pool import Pool
from retrieval.search import View
from retrieval.spaces import encoders_in_use, space_of

logger = logging.getLogger(__name__)

KIND = "description"
BATCH = 64


def store_description(revision: Revision) -> None:
    """Embed what is said about the adapter of a revision that is about to be admitted; nothing, where nothing is said.

    Without an encoder it is left to `reembed`: an adapter is admitted also where no text can be embedded.
    """
    adapter = revision.adapter
    if not adapter.description:
        return
    try:
        for encoder in encoders_in_use():
            rows = encoder.encode([_text(adapter)])
            with transaction.atomic():
                _store(space_of(encoder), [(revision.pk, adapter)], rows)
    except NotReady as error:
        logger.warning("The description of %s is not embedded yet: %s", adapter, error.message)


def lacking_descriptions(space_id: str) -> QuerySet[Revision]:
    """The heads whose descriptions have no vector in a space, or one of what was said before."""
    current = Prototype.objects.filter(
        revision=OuterRef("pk"),
        kind=KIND,
        space_id=space_id,
        described__sha256=SHA256(OuterRef("head_of__search_text")),
    )
    heads = Revision.objects.filter(head_of__yanked_at=None, head_of__isnull=False)
    return heads.exclude(head_of__description="").exclude(Exists(current))


def embed_missing_descriptions(encoder: Encoder, space: Space) -> Iterator[int]:
    """Embed the descriptions that lack a vector in a space. Yields: how many, after the commit of each batch."""
    while heads := list(lacking_descriptions(space.pk).order_by("pk").values_list("pk", "adapter_id")[:BATCH]):
        adapters = Adapter.objects.in_bulk([adapter for _, adapter in heads])
        described = [(head, adapters[adapter]) for head, adapter in heads if adapter in adapters]
        rows = encoder.encode([_text(adapter) for _, adapter in described])
        with transaction.atomic():
            # A change like any other: it is how a process knows that there is something new to search.
            seq = next_seq()
            _store(space, described, rows)
            Adapter.objects.filter(head__in=[head for head, _ in described]).update(change_seq=seq)
        yield len(described)


def _text(adapter: Adapter) -> str:
    return description_text(adapter.full_name, adapter.description, adapter.tags)


def _store(space: Space, described: list[tuple[int, Adapter]], rows: NDArray[np.float32]) -> None:
    """Call in a transaction. What was edited meanwhile keeps the digest of what was read, and is done again."""
    Prototype.objects.filter(kind=KIND, space=space, revision_id__in=[pk for pk, _ in described]).delete()
    for (revision, adapter), row in zip(described, rows, strict=True):
        prototype = Prototype.objects.create(
            revision_id=revision, kind=KIND, space=space, count=1, dim=len(row), vectors=row.astype("<f4").tobytes()
        )
        digest = hashlib.sha256(adapter.search_text.encode()).hexdigest()
        DescribedText.objects.create(prototype=prototype, sha256=digest)


class _Held:
    view: View | None = None


_held = _Held()
_refreshing = threading.Lock()


def description_view(space: str) -> View:
    """The descriptions as of the last committed change; all of them in memory, and every search is exact."""
    with _refreshing:
        view = _held.view
        known = view.pool if view is not None and view.pool.space == space else Pool(space, kind=KIND)
        pool = known.refreshed()
        if view is None or pool is not view.pool:
            view = _held.view = View(pool, None, f"0.{pool.seq}", view)
        return view


def forget() -> None:
    """Start again from the database at the next request."""
    with _refreshing:
        _held.view = None
