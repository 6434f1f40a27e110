"""Hubs: experts that are among the nearest of nearly every text, whatever it is about. Some are general; some are made.

Radovanović, Nanopoulos and Ivanović, "Hubs in Space", JMLR 11 (2010): the k-occurrence N_k(x) is the number of queries
that have x among their k nearest. The queries are background texts, of tasks that no expert here was trained for.
"""

from functools import lru_cache

import numpy as np
from django.db.models import Q, QuerySet
from numpy.typing import NDArray

from lora.hybrid.background import load_background
from registry.models import Revision
from retrieval.encoders import Encoder
from retrieval.models import Prototype, ServedSpace
from retrieval.prototypes import rows_of
from retrieval.spaces import encoder_of, heads

Rows = NDArray[np.float32]

# k is this share of the experts.
NEAREST = 0.2
# Fewer experts say nothing: each is then near to much.
MIN_POOL = 50
# Of the newest ones, so that an upload costs the same in a pool of any size.
MAX_POOL = 1000
# Of one task's texts, in which a legitimate expert of that kind is to be near.
TEXTS_PER_TASK = 3
# Of 50 to 103 experts of real tasks, none has more than 0.54; one with samples of all of them has 0.72 at least, and
# one that adds a sample of each to its own 0.61.
HUB_SHARE = 0.6


def occurrence(vector: Rows, others: Rows, queries: Rows) -> float:
    """The part of queries (q, dim) to which a vector (dim,) is nearer than all but the NEAREST of others (n, dim)."""
    k = max(1, round(NEAREST * len(others)))
    last = np.partition(queries @ others.T, -k, axis=1)[:, -k]
    return float((queries @ vector > last).mean())


def hub_warning(revision: Revision) -> list[dict[str, str]]:
    """The warning `hub`, where the centroid of a revision deserves it. Raises: NotReady: the encoder."""
    found = {prototype.revision_id: prototype for prototype in _centroids(revision)}
    own = found.pop(revision.pk, None)
    if own is None or len(found) < MIN_POOL:
        return []
    others = np.concatenate([rows_of(other) for other in found.values()])
    share = occurrence(rows_of(own)[0], others, _background(encoder_of(own.space_id)))
    if share < HUB_SHARE:
        return []
    message = (
        f"It is among the nearest fifth of {len(others)} experts for {share:.0%} of texts about all kinds of things: "
        "its samples are near to everything. Give samples of its own task only."
    )
    return [{"code": "hub", "message": message}]


def _centroids(revision: Revision) -> QuerySet[Prototype]:
    """Those of a revision and of the newest other experts that all may see, in the space in service: one query."""
    public = heads().filter(adapter__visibility="public", state="ready").exclude(adapter_id=revision.adapter_id)
    newest = public.order_by("-pk").values("pk")[:MAX_POOL]
    served = ServedSpace.objects.filter(space__isnull=False).values("space")
    asked = Q(revision=revision) | Q(revision__in=newest)
    return Prototype.objects.filter(asked, kind="centroid", space__in=served).order_by("pk")


@lru_cache(maxsize=2)
def _background(encoder: Encoder) -> Rows:
    """Some texts of every task, embedded once per process."""
    return encoder.encode([text for task in load_background() for text in task.texts[:TEXTS_PER_TASK]])
