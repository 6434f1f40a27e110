"""The page that helps to pick a method."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from retrieval.picker import ours, survey
from retrieval.survey import FACETS, HAVE


@require_safe
def methods(request: HttpRequest) -> HttpResponse:
    asked = "pick" in request.GET
    have = {word for word in request.GET.getlist("have") if word in HAVE}
    at_hand = have if asked else None
    rows = survey(at_hand)
    context = {
        "section": "methods",
        "choices": [{"word": word, "text": text, "chosen": word in have} for word, text in HAVE.items()],
        "asked": asked,
        "facets": FACETS.values(),
        "rows": rows,
        "served": [row for row in rows if row["served"]],
        "ours": ours(at_hand),
    }
    return render(request, "retrieval/methods.html", context)
