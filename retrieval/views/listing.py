"""The list of adapters: filters, order, pages."""

from collections import Counter
from typing import Any

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import render
from django.views.decorators.http import require_safe
from django.views.decorators.vary import vary_on_headers

from registry.models import Adapter, Revision
from registry.queries import Caller, visible_adapters
from registry.views.pages import page
from retrieval.api.adapters import filter_adapters

PER_PAGE = 25
SHOWN_TAGS = 200
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
