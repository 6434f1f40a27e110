"""The list of adapters: words, facets with counts, order, pages."""

from typing import Any

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe
from django.views.decorators.vary import vary_on_headers

from registry.search import Found, Search, Values, parse_search
from registry.views import pages

PER_PAGE = 25
# Values of a facet that are shown at once, and how many more are folded away; the search finds what is rarer.
SHOWN_VALUES = 8
FOLDED_VALUES = 32
ORDERINGS = {
    "-updated_at": "recently changed",
    "-created_at": "newest",
    "-downloads": "most downloads",
    "name": "name",
    "size_bytes": "smallest file",
    "-size_bytes": "largest file",
    "rank": "lowest rank",
    "-rank": "highest rank",
}
DEFAULT_ORDERING = next(iter(ORDERINGS))
FACETS = {
    "base_model": "Base model",
    "tag": "Task or tag",
    "license": "Licence",
    "owner": "Owner",
    "rank": "Rank",
    "samples": "Samples",
    "origin": "Origin",
    "state": "State",
}
# What a value is called where its own name does not say enough.
LABELS = {
    "rank": "rank {}",
    "samples": {"yes": "with samples", "no": "without samples"},
    "origin": {"trained": "trained", "merged": "merged from others"},
}


@require_safe
@vary_on_headers("HX-Request")
@pages.page
def adapters(request: HttpRequest) -> HttpResponse:
    """The list, filtered as `GET /api/v1/adapters/` does; only what changes where htmx asks for it."""
    search = parse_search(request.GET, DEFAULT_ORDERING)
    found = Found(request.user, search)
    page = Paginator(found, PER_PAGE).get_page(request.GET.get("page"))
    query = _query(search)
    context = {
        "section": "adapters",
        "page": page,
        "adapters": page.object_list,
        "search": search,
        "count": page.paginator.count,
        "facets": _facets(search, found.facets()),
        "chips": _chips(search, query),
        "orderings": ORDERINGS.items(),
        "is_filtered": bool(search.text or search.filters),
    }
    if "HX-Request" not in request.headers:
        return render(request, "adapters/list.html", context)
    # The address without the empty fields of the form, and without the page that they were asked for on.
    address = reverse("adapters") + (f"?{query.urlencode()}" if query else "")
    answer = render(request, "adapters/list_parts.html", context)
    answer.headers["HX-Push-Url"] = address
    return answer


def _query(search: Search) -> QueryDict:
    """The shortest query that asks for a search."""
    query = QueryDict(mutable=True)
    if search.text:
        query["search"] = search.text
    for name, values in search.filters.items():
        query.setlist(name, values)
    if search.ordering != DEFAULT_ORDERING:
        query["ordering"] = search.ordering
    return query


def _facets(search: Search, counts: dict[str, Values]) -> list[dict[str, Any]]:
    """The facets in which there is a choice, or one was made."""
    facets = []
    for name, title in FACETS.items():
        chosen = search.filters.get(name, ())
        if len(counts[name]) < 2 and not chosen:
            continue
        values = [
            {"value": value, "label": label(name, value), "count": count, "chosen": value in chosen}
            for value, count in counts[name]
        ]
        # Ranks stay in order; elsewhere what is chosen stays in sight.
        first = values if name == "rank" else sorted(values, key=lambda item: not item["chosen"])
        cut = max(SHOWN_VALUES, len(chosen))
        facets.append({"name": name, "title": title, "values": first[:cut], "more": first[cut : cut + FOLDED_VALUES]})
    return facets


def label(name: str, value: str) -> str:
    """What a value of a facet is called on the page."""
    labels = LABELS.get(name, value)
    return labels.get(value, value) if isinstance(labels, dict) else labels.format(value)


def _chips(search: Search, query: QueryDict) -> list[dict[str, str]]:
    """The chosen filters, each with the address of the list without it."""
    chips = []
    for name, values in search.filters.items():
        for value in values:
            rest = query.copy()
            rest.setlist(name, [other for other in values if other != value])
            chips.append({"title": FACETS[name], "label": label(name, value), "query": rest.urlencode()})
    return chips
