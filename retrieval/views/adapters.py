"""The list of adapters, and the page on which one decides about one of them."""

from collections import Counter
from typing import Any

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import render
from django.views.decorators.http import require_safe
from django.views.decorators.vary import vary_on_headers

from registry.adapters import read_card
from registry.describe import readable_files
from registry.errors import BlobDamaged
from registry.models import Adapter, Revision
from registry.queries import Caller, find_adapter, find_revision, is_owner, visible_adapters
from registry.samples import PATH as SAMPLES
from registry.samples import read_samples
from registry.views import charts
from registry.views.card import render_card
from registry.views.pages import page
from registry.views.snippets import download_snippet, peft_snippet
from retrieval.api.adapters import filter_adapters, full_json
from retrieval.similar import similar

PER_PAGE = 25
SHOWN_TAGS = 200
SHOWN_SAMPLES = 3
SHOWN_REVISIONS = 20
SHOWN_SIMILAR = 5
FILTERS = ("search", "base_model", "tag", "license", "owner", "state")
ORDERINGS = {
    "-updated_at": "changed",
    "-created_at": "newest",
    "-downloads": "downloads",
    "name": "name",
}


@require_safe
@vary_on_headers("HX-Request")
@page
def adapters(request: HttpRequest) -> HttpResponse:
    """The list, filtered as `GET /api/v1/adapters/` does; only the results where htmx asks for them."""
    query = _query(request)
    found = Paginator(filter_adapters(request.user, query), PER_PAGE).get_page(request.GET.get("page"))
    context = {
        "section": "adapters",
        "page": found,
        "rows": [_row(adapter) for adapter in found],
        "filters": query.dict(),
        "is_filtered": any(name in query for name in FILTERS),
    }
    if "HX-Request" in request.headers:
        return render(request, "adapters/results.html", context)
    return render(request, "adapters/list.html", context | {"choices": _choices(request.user)})


def _query(request: HttpRequest) -> QueryDict:
    """The filters of the form, without the empty fields that a browser sends along."""
    query = QueryDict(mutable=True)
    for name in (*FILTERS, "ordering"):
        if values := [value for value in request.GET.getlist(name) if value.strip()]:
            query.setlist(name, values)
    query.setdefault("ordering", next(iter(ORDERINGS)))
    return query


def _choices(user: Caller) -> dict[str, list[Any]]:
    """What there is to choose from, among all that the caller may see."""
    rows = visible_adapters(user)
    tags = Counter(tag for row in rows.values_list("tags", flat=True) for tag in row)

    def values(field: str) -> list[str]:
        return list(rows.exclude(**{field: ""}).values_list(field, flat=True).distinct().order_by(field))

    return {
        "base_model": values("base_model"),
        "license": values("license"),
        "owner": values("namespace__name"),
        "tag": [tag for tag, _ in tags.most_common(SHOWN_TAGS)],
        "state": Revision.State.values,
        "ordering": list(ORDERINGS.items()),
    }


def _row(adapter: Adapter) -> dict[str, Any]:
    """A line of the list. Without a head, the newest revision's verdict is the adapter's state."""
    revision = adapter.head or adapter.revisions.first()
    return {"adapter": adapter, "facts": revision.facts, "state": revision.state}


@require_safe
@page
def adapter(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    return render(request, "adapters/page.html", adapter_context(request, owner, name))


@require_safe
@page
def similar_adapters(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """The part of the page that needs the index, and so comes after it."""
    row = find_adapter(request.user, f"{owner}/{name}")
    return render(request, "adapters/similar.html", {"matches": similar(request.user, row, "samples", SHOWN_SIMILAR)})


def adapter_context(request: HttpRequest, owner: str, name: str) -> dict[str, Any]:
    """Everything that the page shows about one revision. Raises: NotFound."""
    row = find_adapter(request.user, f"{owner}/{name}")
    revision = find_revision(request.user, row, request.GET.get("revision", "main"))
    described = full_json(request.user, row, revision)
    modules = revision.facts.get("modules", [])
    may_write = is_owner(request.user, row)
    return {
        "section": "adapters",
        "adapter": described,
        "row": row,
        "short_name": row.name,
        "is_owner": may_write,
        "visibilities": Adapter.Visibility.values,
        "is_main": revision.pk == row.head_id,
        "binding": _binding(revision.facts),
        "heatmap": charts.heatmap(modules, "norm", "‖ΔW‖"),
        "spectrum": charts.spectrum(modules),
        "findings": charts.findings(modules),
        "download": download_snippet(row, revision),
        "peft": peft_snippet(row, revision),
        "revisions": _revisions(row, may_write),
        "job": revision.jobs.first() if may_write else None,
        **_texts(request, revision),
    }


def _binding(facts: dict[str, Any]) -> dict[str, Any] | None:
    """How many of the modules that it targets in a known base the adapter changes."""
    known = facts.get("modules_in_base")
    return None if known is None else {"bound": facts["modules_bound"], "in_base": known}


def _texts(request: HttpRequest, revision: Revision) -> dict[str, Any]:
    """Card and samples. A damaged blob is said on the page, and the rest is shown."""
    try:
        visible = SAMPLES in readable_files(request.user, revision)
        samples = read_samples(revision) if visible else []
        return {
            "card": render_card(read_card(revision)),
            "samples": samples[:SHOWN_SAMPLES],
            "sample_count": len(samples),
            "samples_hidden": not visible and revision.file(SAMPLES) is not None,
        }
    except BlobDamaged as error:
        return {"damage": error.message}


def _revisions(row: Adapter, may_write: bool) -> Any:
    revisions = row.revisions.select_related("author")
    if not may_write:
        revisions = revisions.filter(state=Revision.State.READY)
    return revisions[:SHOWN_REVISIONS]
