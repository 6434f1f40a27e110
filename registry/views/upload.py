"""The upload page; the files themselves go to `POST /api/v1/adapters/`."""

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from registry.models import BaseModel

# SPDX identifiers that adapters are published under, and the Hub's names of the models' own licences.
LICENCES = (
    "apache-2.0 mit bsd-2-clause bsd-3-clause cc0-1.0 cc-by-4.0 cc-by-sa-4.0 cc-by-nc-4.0 cc-by-nc-sa-4.0 "
    "gpl-3.0 lgpl-3.0 agpl-3.0 mpl-2.0 isc unlicense openrail creativeml-openrail-m bigscience-openrail-m "
    "llama2 llama3 llama3.1 llama3.2 llama3.3 gemma other"
).split()


@require_safe
@login_required
def upload(request: HttpRequest) -> HttpResponse:
    given_owner, _, given_name = request.GET.get("name", "").partition("/")
    context = {
        "section": "upload",
        "owners": request.user.namespaces.order_by("name").values_list("name", flat=True),
        "bases": BaseModel.objects.values_list("name", flat=True),
        "licences": LICENCES,
        "given_owner": given_owner,
        "given_name": given_name,
    }
    return render(request, "adapters/upload.html", context)
