"""The pages that ask for experts and for merges; both call the REST API from the browser."""

import re
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from registry.queries import visible_adapters
from retrieval.encoders import warm_up

DEFAULT_ROUTER = "lora_retriever"
DEFAULT_METHOD = "weighted_sum"
GIVEN_INPUT = re.compile(r"(?P<adapter>[^:]{1,300})(:(?P<weight>-?[0-9.eE+-]{1,30}))?")
MAX_GIVEN = 100


@require_safe
def retrieve(request: HttpRequest) -> HttpResponse:
    warm_up()
    ready = visible_adapters(request.user).filter(head__isnull=False)
    bases = ready.exclude(base_model="").order_by("base_model").values_list("base_model", flat=True).distinct()
    context = {
        "section": "retrieve",
        "text": request.GET.get("text", ""),
        "base_model": request.GET.get("base_model", ""),
        "bases": bases,
        "default_router": DEFAULT_ROUTER,
    }
    return render(request, "retrieval/retrieve.html", context)


@require_safe
def merge(request: HttpRequest) -> HttpResponse:
    """The merge form, filled from `?input=owner/name[@revision][:weight]`, repeated."""
    owners = request.user.namespaces.order_by("name") if request.user.is_authenticated else []
    context = {
        "section": "merge",
        "inputs": _given_inputs(request.GET.getlist("input")[:MAX_GIVEN]),
        "default_method": DEFAULT_METHOD,
        "owners": [namespace.name for namespace in owners],
    }
    return render(request, "retrieval/merge.html", context)


def _given_inputs(values: list[str]) -> list[dict[str, Any]]:
    matches = [GIVEN_INPUT.fullmatch(value) for value in values]
    return [{"adapter": match["adapter"], "weight": match["weight"] or ""} for match in matches if match]
