"""The pages that ask for experts and for merges; both call the REST API from the browser, which reads the address."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from registry.queries import Caller, visible_adapters
from registry.search import Search, find_with_facets
from retrieval.request import DEFAULT_ROUTER
from retrieval.spaces import warm_up

DEFAULT_METHOD = "weighted_sum"
READY = Search("", {"state": ("ready",)}, "-downloads")
SUGGESTED_BASES = 3


@require_safe
def retrieve(request: HttpRequest) -> HttpResponse:
    warm_up()
    found = find_with_facets(request.user, READY)
    context = {
        "section": "retrieve",
        "experts": len(found.ids),
        "bases": sorted(name for name, _ in found.facets["base_model"]),
        "tags": [name for name, _ in found.facets["tag"]],
        "licenses": [name for name, _ in found.facets["license"]],
        "default_router": DEFAULT_ROUTER,
    }
    return render(request, "retrieval/retrieve.html", context)


@require_safe
def merge(request: HttpRequest) -> HttpResponse:
    owners = request.user.namespaces.order_by("name") if request.user.is_authenticated else []
    context = {
        "section": "merge",
        "default_method": DEFAULT_METHOD,
        "owners": [namespace.name for namespace in owners],
        "suggestions": _suggestions(request.user),
    }
    return render(request, "retrieval/merge.html", context)


def _suggestions(user: Caller) -> list[dict[str, Any]]:
    """For the base models with the most experts, two of them to begin with."""
    facets = find_with_facets(user, READY).facets
    bases = [name for name, count in facets["base_model"] if count > 1][:SUGGESTED_BASES]
    ready = visible_adapters(user).filter(state="ready").order_by("-downloads", "pk")
    return [
        {"base_model": base, "adapters": list(ready.filter(base_model=base).values_list("full_name", flat=True)[:2])}
        for base in bases
    ]
