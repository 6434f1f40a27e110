"""`/merges/`: here rather than in the registry, because inputs may come from a retrieval."""

from typing import Any

from django.http import HttpResponseBase
from drf_spectacular.utils import extend_schema
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from registry.api.pagination import paginated
from registry.api.schema import BINARY, ERROR, OBJECT
from registry.describe import job_json, merge_json
from registry.downloads import archive_response
from registry.errors import Conflict, Invalid
from registry.merges import merged_files, request_merge
from registry.models import Job, Merge
from registry.queries import find_merge
from registry.recipes import parse_recipe
from retrieval.services import retrieve


def resolve_inputs(user: Any, payload: Any) -> Any:
    """The payload with `{"retrieve": {…}}` replaced by the matches and weights of that retrieval. Raises: Invalid."""
    inputs = payload.get("inputs") if isinstance(payload, dict) else None
    if not isinstance(inputs, dict):
        return payload
    if set(inputs) != {"retrieve"}:
        raise Invalid('inputs is a list, or {"retrieve": {…}}.', detail={"inputs": "unknown form"})
    results = retrieve(user, inputs["retrieve"])["results"]
    if len(results) != 1 or results[0]["abstained"]:
        raise Invalid("The retrieval must give matches for exactly one query.", detail={"inputs": "no matches"})
    found = [{name: match[name] for name in ("adapter", "revision", "weight")} for match in results[0]["matches"]]
    return payload | {"inputs": found}


class MergeList(APIView):
    permission_classes = [IsAuthenticated]

    @extend_schema(operation_id="merges_list", responses=OBJECT)
    def get(self, request: Request) -> Response:
        rows = Merge.objects.filter(owner_id=request.user.pk).select_related("artefact", "revision__adapter")
        return paginated(request, rows, merge_json)

    @extend_schema(request=OBJECT, responses={200: OBJECT, 202: OBJECT, 400: ERROR, 422: ERROR})
    def post(self, request: Request) -> Response:
        """Merge experts into one adapter."""
        merge, job = request_merge(request.user, parse_recipe(request.user, resolve_inputs(request.user, request.data)))
        status = 200 if job.status == Job.Status.SUCCEEDED else 202
        return Response(
            {"merge": merge_json(merge), "job": job_json(job)},
            status=status,
            headers={"Location": f"/api/v1/jobs/{job.pk}/"},
        )


class MergeDetail(APIView):
    @extend_schema(operation_id="merges_retrieve", responses={200: OBJECT, 404: ERROR})
    def get(self, request: Request, merge_id: Any) -> Response:
        return Response(merge_json(find_merge(request.user, merge_id)))


class MergeArchive(APIView):
    @extend_schema(responses={(200, "application/zip"): BINARY, 409: ERROR})
    def get(self, request: Request, merge_id: Any) -> HttpResponseBase:
        merge = find_merge(request.user, merge_id)
        if merge.artefact is None:
            raise Conflict("The merge has not finished. Its job says how far it is.")
        return archive_response(f"merge-{merge.pk}", merged_files(merge))
