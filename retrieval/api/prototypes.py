"""`GET /adapters/{owner}/{name}/prototypes/{kind}/`: the vectors that stand for an adapter."""

from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.views import APIView

from registry.api.files import revision_in
from registry.api.schema import BINARY, ERROR, REF
from registry.errors import NotFound
from registry.queries import is_owner
from retrieval.prototypes import as_safetensors, find_prototype


class AdapterPrototype(APIView):
    @extend_schema(
        operation_id="adapters_prototypes_retrieve",
        parameters=[REF],
        responses={(200, "application/octet-stream"): BINARY, 404: ERROR},
    )
    def get(self, request: Request, owner: str, name: str, kind: str) -> HttpResponse:
        """Prototypes of a kind as safetensors: module path → vectors, or the kind → rows of the text space."""
        revision = revision_in(request, owner, name)
        adapter = revision.adapter
        if kind == "samples" and not adapter.samples_public and not is_owner(request.user, adapter):
            raise NotFound("The owner of this adapter does not show its samples.")
        prototype = find_prototype(revision, kind)
        return HttpResponse(
            as_safetensors(prototype),
            content_type="application/octet-stream",
            headers={"Content-Disposition": f'attachment; filename="{name}-{prototype.kind}.safetensors"'},
        )
