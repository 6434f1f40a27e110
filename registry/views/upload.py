"""The upload page; the files themselves go to `POST /api/v1/adapters/`."""

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from registry.models import BaseModel


@require_safe
@login_required
def upload(request: HttpRequest) -> HttpResponse:
    given_owner, _, given_name = request.GET.get("name", "").partition("/")
    context = {
        "section": "upload",
        "owners": request.user.namespaces.order_by("name").values_list("name", flat=True),
        "bases": BaseModel.objects.values_list("name", flat=True),
        "max_bytes": settings.MAX_UPLOAD_BYTES,
        "given_owner": given_owner,
        "given_name": given_name,
    }
    return render(request, "adapters/upload.html", context)
