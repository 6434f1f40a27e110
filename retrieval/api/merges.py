"""`/merges/`: here rather than in the registry, because inputs may come from a retrieval."""

from functools import partial
from typing import Any

from django.http import HttpResponseBase
from drf_spectacular.utils import extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.permissions import AllowAny, IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from registry.api.pagination import paginated
from registry.api.schema import BINARY, ENGINE, ERROR, OBJECT
from registry.describe import job_json, merge_json
from registry.downloads import archive_response
from registry.errors import Conflict, Invalid
from registry.merge_preview import preview_merge
from registry.merges import merged_files, request_merge
from registry.models import Job, Merge
from registry.queries import Caller, find_merge
from registry.recipe_requests import parse_recipe
from registry.serving import export_response
from retrieval.services import retrieve


def resolve_inputs(user: Caller, inputs: Any) -> Any:
    """`{"retrieve": {…}}` as the matches and weights of that retrieval; a list as it is.

    Raises: Invalid, UnknownRouter, InvalidParams, NotReady.
    """
    if not isinstance(inputs, dict):
        return inputs
    if set(inputs) != {"retrieve"}:
        raise Invalid('inputs is a list, or {"retrieve": {…}}.', detail={"inputs": "unknown form"})
    results = retrieve(user, inputs["retrieve"])["results"]
    if len(results) != 1 or results[0]["abstained"]:
        raise Invalid("The retrieval must give matches for exactly one query.", detail={"inputs": "no matches"})
    return [{name: match[name] for name in ("adapter", "revision", "weight")} for match in results[0]["matches"]]


# These document the answer; `registry.merge_preview` writes it.
PROBLEM = inline_serializer(
    "MergeProblem",
    {
        "where": serializers.CharField(help_text="inputs[1].weight, params.density, output.name, …"),
        "code": serializers.CharField(),
        "message": serializers.CharField(),
    },
    many=True,
)
MERGE_PREVIEW = inline_serializer(
    "MergePreview",
    {
        "mergeable": serializers.BooleanField(help_text="no problems"),
        "problems": PROBLEM,
        "warnings": serializers.ListField(child=serializers.JSONField(), help_text="[{code, message}]"),
        "inputs": serializers.ListField(
            child=serializers.JSONField(),
            help_text="per input {adapter, revision, weight as applied, base_model, visibility, license, rank, dtype}; "
            "null where it is refused",
        ),
        "norms": serializers.ListField(
            child=serializers.FloatField(allow_null=True), help_text="‖ΔW‖ of every input, without its weight"
        ),
        "rank": serializers.IntegerField(allow_null=True, help_text="of the file; null where the result decides"),
    },
)


class MergeList(APIView):
    permission_classes = [IsAuthenticated]

    @extend_schema(operation_id="merges_list", responses=OBJECT)
    def get(self, request: Request) -> Response:
        rows = Merge.objects.filter(owner_id=request.user.pk).select_related("artefact", "revision__adapter")
        return paginated(request, rows, merge_json)

    @extend_schema(request=OBJECT, responses={200: OBJECT, 202: OBJECT, 400: ERROR, 422: ERROR})
    def post(self, request: Request) -> Response:
        """Merge experts into one adapter."""
        recipe = parse_recipe(request.user, request.data, partial(resolve_inputs, request.user))
        merge, job = request_merge(request.user, recipe)
        status = 200 if job.status == Job.Status.SUCCEEDED else 202
        return Response(
            {"merge": merge_json(merge), "job": job_json(job)},
            status=status,
            headers={"Location": f"/api/v1/jobs/{job.pk}/"},
        )


class MergePreview(APIView):
    # Looking at a recipe is reading: whoever may see the inputs may try them.
    permission_classes = [AllowAny]

    @extend_schema(request=OBJECT, responses={200: MERGE_PREVIEW, 503: ERROR})
    def post(self, request: Request) -> Response:
        """Check a recipe as `POST /merges/` does, without storing anything: what stands in its way, and where."""
        return Response(preview_merge(request.user, request.data, partial(resolve_inputs, request.user)))


class MergeDetail(APIView):
    @extend_schema(operation_id="merges_retrieve", responses={200: OBJECT, 404: ERROR})
    def get(self, request: Request, merge_id: Any) -> Response:
        return Response(merge_json(find_merge(request.user, merge_id)))


class MergeArchive(APIView):
    @extend_schema(parameters=[ENGINE], responses={(200, "application/zip"): BINARY, 400: ERROR, 409: ERROR})
    def get(self, request: Request, merge_id: Any) -> HttpResponseBase:
        merge = find_merge(request.user, merge_id)
        if merge.artefact is None:
            raise Conflict("The merge has not finished. Its job says how far it is.")
        files, engine = merged_files(merge), request.query_params.get("for")
        if engine is None:
            return archive_response(f"merge-{merge.pk}", files)
        return export_response(f"merge-{merge.pk}", files, engine, merge.base_model, f"merge {merge.pk}")
