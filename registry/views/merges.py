"""The page of a merge: its recipe, and what came of it."""

from typing import Any
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from registry.describe import merge_json
from registry.queries import find_merge
from registry.views import charts
from registry.views.pages import page

SHOWN_MODULES = 500


@require_safe
@login_required
@page
def merge(request: HttpRequest, merge_id: UUID) -> HttpResponse:
    row = find_merge(request.user, merge_id)
    context = {
        "section": "merge",
        "merge": merge_json(row),
        "job": row.jobs.first(),
        **_report(row.artefact.report if row.artefact else None),
    }
    return render(request, "merges/page.html", context)


def _report(report: dict[str, Any] | None) -> dict[str, Any]:
    if report is None:
        return {}
    modules = report["per_module"]
    return {
        "energy_kept": f"{report['energy_kept']:.2%}",
        "relative_error": f"{report['relative_error']:.2%}",
        "heatmap": charts.heatmap(modules, "norm_out", "‖ΔW‖"),
        "modules": modules[:SHOWN_MODULES],
        "more_modules": max(0, len(modules) - SHOWN_MODULES),
    }
