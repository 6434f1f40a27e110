"""The page on which one decides about an adapter."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from registry.adapters import read_card
from registry.describe import readable_files
from registry.errors import BlobDamaged
from registry.models import Adapter, Revision
from registry.queries import find_adapter, find_revision, is_owner
from registry.samples import PATH as SAMPLES
from registry.samples import read_samples
from registry.views import charts
from registry.views.card import render_card
from registry.views.pages import page
from registry.views.snippets import download_snippet, peft_snippet
from retrieval.api.adapters import full_json
from retrieval.similar import similar

SHOWN_SAMPLES = 3
SHOWN_REVISIONS = 20
SHOWN_SIMILAR = 5


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
