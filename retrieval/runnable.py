"""Which experts of a base model a worker is to run on a task's inputs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.db.models import QuerySet

from lora.trials import why_not_run
from registry.merges import described_files
from registry.models import Adapter, Revision
from registry.queries import Caller
from retrieval.request import MAX_K
from retrieval.services import retrieve

# Of all inputs and outputs together: about 16,000 tokens, which every expert may have to read.
MAX_TOTAL_CHARS = 64_000
# Headers that are read at most in order to find experts that can be run.
MAX_LOOKED_AT = 100


def runnable(
    user: Caller, pool: QuerySet[Adapter], asked: Mapping[str, Any], inputs: Sequence[str], most: int
) -> tuple[list[int], list[str]]:
    """Up to so many revisions that can be run: those that a retrieval finds first, then the most downloaded.

    Args:
        pool: the experts in question. asked: base model and filters that say the same to a retrieval.
        inputs: of one task.
    Returns: the revisions, and why others that were looked at cannot be run.
    Raises: NotReady: the encoder.
    """
    chosen: list[int] = []
    reasons: list[str] = []
    for revision in _by_promise(user, pool, asked, inputs, needs_order=pool.count() > most):
        if len(chosen) == most:
            break
        if reason := why_not_run(described_files([revision])[0]):
            reasons.append(reason)
        else:
            chosen.append(revision.pk)
    return chosen, reasons


def _by_promise(
    user: Caller, pool: QuerySet[Adapter], asked: Mapping[str, Any], inputs: Sequence[str], *, needs_order: bool
) -> Iterator[Revision]:
    heads = dict(pool.order_by("-downloads", "full_name").values_list("full_name", "head_id")[:MAX_LOOKED_AT])
    if needs_order:
        # By a router that never abstains: what is far off is measured, too.
        wanted = {**asked, "router": "lora_retriever", "k": MAX_K, "examples": [{"input": text} for text in inputs]}
        found = [match["adapter"] for match in retrieve(user, wanted)["results"][0]["matches"]]
        first = dict(pool.filter(full_name__in=found).values_list("full_name", "head_id"))
        heads = {name: first[name] for name in found if name in first} | heads
    ids = list(dict.fromkeys(heads.values()))[:MAX_LOOKED_AT]
    rows = Revision.objects.select_related("adapter").defer("modules").prefetch_related("files__blob")
    revisions = rows.in_bulk(ids)
    return (revisions[pk] for pk in ids if pk in revisions)
