"""`/adapters/{owner}/{name}/prototypes/{kind}/`: the vectors that stand for an adapter, and how some are asked for."""

from django.http import HttpResponse
from drf_spectacular.utils import extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from registry.api.files import revision_in
from registry.api.schema import BINARY, ERROR, REF
from registry.describe import job_json
from registry.errors import NotFound
from registry.queries import is_owner
from retrieval.prototype_jobs import start_prototype
from retrieval.prototypes import prototype_file

ASKED = inline_serializer(
    "PrototypeAnswer", {"job": serializers.JSONField(allow_null=True, help_text="as GET /jobs/{id}/ has it, or null")}
)


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
        if (
            kind in ("samples", "middle", "lexical")
            and not adapter.samples_public
            and not is_owner(request.user, adapter)
        ):
            raise NotFound("The owner of this adapter does not show its samples.")
        return HttpResponse(
            prototype_file(revision, kind),
            content_type="application/octet-stream",
            headers={"Content-Disposition": f'attachment; filename="{name}-{kind}.safetensors"'},
        )

    @extend_schema(
        operation_id="adapters_prototypes_compute",
        parameters=[REF],
        request=None,
        responses={200: ASKED, 202: ASKED, 400: ERROR, 401: ERROR, 404: ERROR, 409: ERROR, 429: ERROR},
    )
    def post(self, request: Request, owner: str, name: str, kind: str) -> Response:
        """Have a worker that has the base model compute prototypes from the samples; 200 where they are there already.

        `phatgoose`: gates, trained in 100 steps; the job's result has the loss of every step. `activations`: the mean
        of what enters every module. `dam`: last tokens in one late layer. `fisher`: the Fisher information of the
        base's weights at the answers.
        """
        job = start_prototype(request.user, revision_in(request, owner, name), kind)
        if job is None:
            return Response({"job": None})
        return Response({"job": job_json(job)}, status=202, headers={"Location": f"/api/v1/jobs/{job.pk}/"})
