"""What lists filter, count and sort by, kept in step with adapters and their revisions."""

import unicodedata
from collections.abc import Iterable
from typing import Any

from django.db import transaction
from django.db.models import Exists, OuterRef

from registry.models import Adapter, AdapterTag, Merge, Revision, RevisionFile
from registry.queries import shown_revisions
from registry.samples import PATH as SAMPLES

CHUNK = 500
COLUMNS = (
    "state",
    "rank",
    "scaling",
    "size_bytes",
    "modules_bound",
    "modules_in_base",
    "has_samples",
    "is_merged",
    "search_text",
)


def fold(text: str) -> str:
    """Text as searches compare it: without case and compatibility forms, in any script; NUL is no text."""
    return unicodedata.normalize("NFKC", text.replace("\0", " ")).casefold()


def index_adapters(adapter_ids: Iterable[int]) -> None:
    """Write the columns and tag rows of adapters anew. Call in the transaction that changed them or their revisions."""
    ids = list(adapter_ids)
    for start in range(0, len(ids), CHUNK):
        with transaction.atomic(savepoint=False):
            _index(ids[start : start + CHUNK])


def _index(ids: list[int]) -> None:
    adapters = list(Adapter.objects.filter(pk__in=ids))
    revisions = shown_revisions(adapters).annotate(
        has_samples=Exists(RevisionFile.objects.filter(revision=OuterRef("pk"), path=SAMPLES)),
        is_merged=Exists(Merge.objects.filter(revision=OuterRef("pk"))),
    )
    shown = {revision.adapter_id: revision for revision in revisions.defer("modules")}
    for adapter in adapters:
        adapter.search_text = _search_text(adapter)
        if revision := shown.get(adapter.pk):
            _describe(adapter, revision)
            adapter.has_samples = revision.has_samples
            adapter.is_merged = revision.is_merged
    # Much faster than `bulk_update`, and the same, because the rows exist.
    Adapter.objects.bulk_create(adapters, update_conflicts=True, update_fields=COLUMNS, unique_fields=["id"])
    AdapterTag.objects.filter(adapter__in=ids).delete()
    AdapterTag.objects.bulk_create(
        AdapterTag(adapter=adapter, name=tag) for adapter in adapters for tag in adapter.tags
    )


def _describe(adapter: Adapter, revision: Revision) -> None:
    facts: dict[str, Any] = revision.summary
    adapter.state = revision.state
    adapter.rank = facts.get("rank") or 0
    adapter.scaling = facts.get("scaling")
    adapter.size_bytes = facts.get("size_bytes") or 0
    adapter.modules_bound = facts.get("modules_bound") or 0
    adapter.modules_in_base = facts.get("modules_in_base")


def _search_text(adapter: Adapter) -> str:
    return fold("\n".join([adapter.full_name, adapter.base_model, *adapter.tags, adapter.description]))
