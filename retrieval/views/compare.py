"""Several adapters side by side."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from registry.models import Adapter
from registry.queries import shown_revisions, visible_adapters
from registry.views.pages import page
from retrieval.similar import sample_similarities

MAX_COMPARED = 8


@require_safe
@page
def compare(request: HttpRequest) -> HttpResponse:
    """The facts of `?input=owner/name`, repeated, as a table: what differs is marked."""
    names = list(dict.fromkeys(name.replace("\0", "") for name in request.GET.getlist("input")))
    found = {row.full_name: row for row in visible_adapters(request.user).filter(full_name__in=names[:MAX_COMPARED])}
    adapters = [found[name] for name in names if name in found]
    context = {
        "section": "adapters",
        "adapters": adapters,
        "missing": [name for name in names[:MAX_COMPARED] if name not in found],
        "left_out": len(names) - MAX_COMPARED if len(names) > MAX_COMPARED else 0,
        "one_base": len({row.base_model for row in adapters}) == 1,
        "rows": _rows(adapters),
        "likeness": _likeness(adapters),
    }
    return render(request, "adapters/compare.html", context)


def _rows(adapters: list[Adapter]) -> list[dict[str, Any]]:
    """One row per fact: a title and a value per adapter."""
    shown = {revision.adapter_id: revision for revision in shown_revisions(adapters).defer("modules")}
    pairs = [(adapter, shown[adapter.pk].summary) for adapter in adapters]
    columns = [
        ("Base model", [row.base_model or "not stated" for row in adapters]),
        ("Type", [facts.get("peft_type", "") for _, facts in pairs]),
        ("Rank", [row.rank for row in adapters]),
        ("Alpha", [f"{facts['alpha']:g}" if "alpha" in facts else "" for _, facts in pairs]),
        ("Scaling", [f"{row.scaling:.4g}" if row.scaling is not None else "" for row in adapters]),
        ("Modules", [row.modules_bound for row in adapters]),
        ("Parameters", [f"{facts['parameters']:,}" if "parameters" in facts else "" for _, facts in pairs]),
        ("‖ΔW‖", [f"{norm:.4g}" if (norm := shown[row.pk].norm) is not None else "" for row in adapters]),
        ("Data type", [facts.get("dtype", "") for _, facts in pairs]),
        ("Samples", ["yes" if row.has_samples else "no" for row in adapters]),
        ("Licence", [row.license or "not stated" for row in adapters]),
        ("Origin", ["merged" if row.is_merged else "trained" for row in adapters]),
        ("Downloads", [f"{row.downloads:,}" for row in adapters]),
        ("Changed", [f"{row.updated_at:%Y-%m-%d}" for row in adapters]),
    ]
    return [{"title": title, "values": values, "differs": len(set(values)) > 1} for title, values in columns]


def _likeness(adapters: list[Adapter]) -> list[dict[str, Any]] | None:
    """Cosines of the samples' centroids, a row per adapter; None where fewer than two have samples."""
    scores = sample_similarities([adapter.pk for adapter in adapters])
    if len({pk for pair in scores for pk in pair}) < 2:
        return None
    return [
        {"adapter": one, "scores": [1.0 if one is other else scores.get((one.pk, other.pk)) for other in adapters]}
        for one in adapters
    ]
