"""The pages that ask for experts, merges and bundles; they call the REST API from the browser, with the address."""

from typing import Any

from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from lora.merges import FAMILIES
from registry import plain_yaml
from registry.base_weights import can_run
from registry.models import Adapter, AdapterTag
from registry.queries import Caller, visible_adapters
from retrieval.request import DEFAULT_ROUTER
from retrieval.spaces import warm_up
from retrieval.trials import choices_of_bases

# Of the methods that need weights alone, what keeps most at its own strength: docs/benchmarks.md, "What merges answer".
DEFAULT_METHOD = "iso_c"
# Of the routers inside the model, what any two experts have all for.
DEFAULT_BUNDLE = "arrow"
SUGGESTED_BASES = 3
CHOICES = 100


@require_safe
def retrieve(request: HttpRequest) -> HttpResponse:
    warm_up()
    ready = visible_adapters(request.user).filter(head__isnull=False)
    tags = AdapterTag.objects.filter(adapter__in=ready).order_by("name").values_list("name", flat=True)
    context = {
        "section": "retrieve",
        "experts": ready.count(),
        "bases": [base | {"runnable": can_run(base["name"])} for base in choices_of_bases(request.user)],
        "tags": tags.distinct()[:CHOICES],
        "licenses": _choices(ready, "license"),
        "default_router": DEFAULT_ROUTER,
    }
    return render(request, "retrieval/retrieve.html", context)


def _choices(ready: QuerySet[Adapter], column: str) -> list[str]:
    return list(ready.exclude(**{column: ""}).order_by(column).values_list(column, flat=True).distinct())


@require_safe
def merge(request: HttpRequest) -> HttpResponse:
    warm_up()
    owners = request.user.namespaces.order_by("name") if request.user.is_authenticated else []
    context = {
        "section": "merge",
        "default_method": DEFAULT_METHOD,
        "families": FAMILIES,
        "recipe_bytes": plain_yaml.MAX_BYTES,
        "owners": [namespace.name for namespace in owners],
        "suggestions": suggestions(request.user),
    }
    return render(request, "retrieval/merge.html", context)


@require_safe
def bundle(request: HttpRequest) -> HttpResponse:
    context = {
        "section": "merge",
        "default_router": DEFAULT_BUNDLE,
        "suggestions": suggestions(request.user),
    }
    return render(request, "retrieval/bundle.html", context)


def suggestions(user: Caller) -> list[dict[str, Any]]:
    """For the base models with the most experts, two of them to begin with."""
    ready = visible_adapters(user).filter(head__isnull=False)
    shared = ready.exclude(base_model="").order_by().values_list("base_model").annotate(count=Count("pk"))
    bases = shared.filter(count__gt=1).order_by("-count", "base_model")[:SUGGESTED_BASES]
    ordered = ready.order_by("-downloads", "pk").values_list("full_name", flat=True)
    return [{"base_model": base, "adapters": list(ordered.filter(base_model=base)[:2])} for base, _ in bases]
