"""The list of adapters, and the page on which one decides about one of them."""

from typing import Any

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe
from django.views.decorators.vary import vary_on_headers

from registry.adapters import read_card
from registry.describe import adapter_json, readable_files
from registry.errors import BlobDamaged
from registry.models import Adapter, Revision
from registry.queries import find_adapter, find_revision, is_owner
from registry.samples import PATH as SAMPLES
from registry.samples import read_samples
from registry.views import charts
from registry.views.card import render_card
from registry.views.filters import choices, filter_adapters, read_filters
from registry.views.pages import page
from registry.views.snippets import download_snippet, peft_snippet

PER_PAGE = 25
SHOWN_SAMPLES = 5
SHOWN_REVISIONS = 20


@require_safe
@vary_on_headers("HX-Request")
def adapters(request: HttpRequest) -> HttpResponse:
    """The filtered list; only the results where htmx asks for them."""
    filters = read_filters(request.GET)
    found = Paginator(filter_adapters(request.user, filters), PER_PAGE).get_page(request.GET.get("page"))
    context = {
        "section": "adapters",
        "page": found,
        "rows": [_row(adapter) for adapter in found],
        "filters": filters,
        "is_filtered": any(value for name, value in filters.items() if name != "ordering"),
    }
    if "HX-Request" in request.headers:
        return render(request, "adapters/results.html", context)
    return render(request, "adapters/list.html", context | {"choices": choices(request.user)})


def _row(adapter: Adapter) -> dict[str, Any]:
    newest = adapter.head or adapter.revisions.first()
    return {
        "adapter": adapter,
        "facts": newest.facts if newest else {},
        "state": newest.state if newest else Revision.State.CHECKING,
    }


@require_safe
@page
def adapter(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    return render(request, "adapters/page.html", adapter_context(request, owner, name))


def adapter_context(request: HttpRequest, owner: str, name: str) -> dict[str, Any]:
    """Everything that the page shows about one revision. Raises: NotFound."""
    row = find_adapter(request.user, f"{owner}/{name}")
    revision = find_revision(request.user, row, request.GET.get("revision", "main"))
    described = adapter_json(request.user, row, revision)
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
        "job": revision.jobs.order_by("-queued_at").first() if may_write else None,
        **_texts(request, revision),
    }


def _binding(facts: dict[str, Any]) -> dict[str, Any] | None:
    """How much of a known base the adapter reaches."""
    bound, known = facts.get("modules_bound"), facts.get("modules_in_base")
    total = len(facts.get("modules", []))
    return None if known is None or bound is None else {"bound": bound, "total": total, "in_base": known}


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
