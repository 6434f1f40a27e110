"""What is odd about where an expert's samples lie: near to everything, or where somebody else's are.

Hubs are experts that are among the nearest of nearly every text, whatever it is about. Some are general; some are made.
Radovanović, Nanopoulos and Ivanović, "Hubs in Space", JMLR 11 (2010): the k-occurrence N_k(x) is the number of queries
that have x among their k nearest. The queries are background texts, of tasks that no expert here was trained for.
"""

from functools import lru_cache

import numpy as np
from django.db.models import F, Q, QuerySet
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
# The cosine of centroids of the same samples, in any order; rounding leaves more of it, other samples of a task less.
SAME = 0.9999


def occurrence(vector: Rows, others: Rows, queries: Rows) -> float:
    """The part of queries (q, dim) to which a vector (dim,) is nearer than all but the NEAREST of others (n, dim)."""
    k = max(1, round(NEAREST * len(others)))
    last = np.partition(queries @ others.T, -k, axis=1)[:, -k]
    return float((queries @ vector > last).mean())


def sample_warnings(revision: Revision) -> list[dict[str, str]]:
    """The warnings `hub` and `samples_copied`, where the centroid of a revision deserves them. Raises: NotReady."""
    found = {prototype.revision_id: prototype for prototype in _centroids(revision)}
    own = found.pop(revision.pk, None)
    if own is None or not found:
        return []
    vector, others = rows_of(own)[0], np.concatenate([rows_of(other) for other in found.values()])
    mine = revision.adapter.namespace_id
    alike = zip(found.values(), others @ vector >= SAME, strict=True)
    twins = [other.revision_id for other, same in alike if same and other.namespace != mine]
    messages = {"samples_copied": _copied(own, mine, twins) if twins else ""}
    if len(found) >= MIN_POOL:
        messages["hub"] = _near_to_all(occurrence(vector, others, _background(encoder_of(own.space_id))), len(others))
    return [{"code": code, "message": message} for code, message in messages.items() if message]


def _near_to_all(share: float, others: int) -> str:
    if share < HUB_SHARE:
        return ""
    return (
        f"It is among the nearest fifth of {others} experts for {share:.0%} of texts about all kinds of things: "
        "its samples are near to everything. Give samples of its own task only."
    )


def _copied(own: Prototype, mine: int, twins: list[int]) -> str:
    """Of whom a centroid is, where its contributor has not had it first.

    Args:
        mine: the contributor's namespace.
        twins: revisions in other namespaces that have it, too.
    """
    first = Revision.objects.select_related("adapter").get(pk=min(twins))
    before = Prototype.objects.filter(kind=own.kind, space_id=own.space_id, revision__lt=first)
    had = before.filter(revision__in=Revision.objects.filter(adapter__namespace_id=mine))
    if any(float(rows_of(earlier)[0] @ rows_of(own)[0]) >= SAME for earlier in had):
        return ""
    return (
        f"Its samples are as good as those of {first.adapter.full_name}, so that routers over samples cannot tell the "
        "two apart. Give samples of what this one was trained on."
    )


def _centroids(revision: Revision) -> QuerySet[Prototype]:
    """Those of a revision and of the newest other experts that all may see, in the space in service: one query.

    Each knows its `namespace`.
    """
    public = heads().filter(adapter__visibility="public", state="ready").exclude(adapter_id=revision.adapter_id)
    newest = public.order_by("-pk").values("pk")[:MAX_POOL]
    served = ServedSpace.objects.filter(space__isnull=False).values("space")
    asked = Q(revision=revision) | Q(revision__in=newest)
    found = Prototype.objects.filter(asked, kind="centroid", space__in=served).order_by("pk")
    return found.annotate(namespace=F("revision__adapter__namespace_id"))


@lru_cache(maxsize=2)
def _background(encoder: Encoder) -> Rows:
    """Some texts of every task, embedded once per process."""
    return encoder.encode([text for task in load_background() for text in task.texts[:TEXTS_PER_TASK]])
