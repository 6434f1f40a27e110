"""The first page: ask for experts, see what the registry holds."""

from django.db.models import Count, Sum
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from registry.queries import visible_adapters
from retrieval.map import is_worth_drawing

NEWEST = 6
BASES = 12


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    ready = visible_adapters(request.user).filter(head__isnull=False)
    numbers = ready.aggregate(
        experts=Count("pk"),
        bases=Count("base_model", distinct=True),
        owners=Count("namespace", distinct=True),
        downloads=Sum("downloads", default=0),
    )
    bases = ready.exclude(base_model="").values_list("base_model").annotate(count=Count("pk"))
    context = {
        "numbers": numbers,
        # By id, which is the order of creation, because that needs no sort of all rows.
        "newest": ready.select_related("namespace").order_by("-pk")[:NEWEST],
        "bases": bases.order_by("-count", "base_model")[:BASES],
        "map": is_worth_drawing(request.user),
    }
    return render(request, "home.html", context)
