"""`/imports/`: adapters from a directory on the workers' machine. Staff only."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.permissions import IsAdminUser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from registry.api.pagination import paginated
from registry.api.schema import ERROR, OBJECT
from registry.describe import job_json
from registry.errors import Invalid, NotFound
from registry.import_jobs import KIND, VERDICTS, folder_json, folders_of, start_import
from registry.queries import find_job

FIELDS = {"dir": str, "owner": str, "visibility": str, "dry": bool}
DEFAULTS = {"visibility": "public", "dry": False}


class ImportList(APIView):
    permission_classes = [IsAdminUser]

    @extend_schema(request=OBJECT, responses={202: OBJECT, 400: ERROR, 403: ERROR})
    def post(self, request: Request) -> Response:
        """Import `{dir, owner, visibility?, dry?}`; `dry` only looks. Answers with the job that does it."""
        given = request.data if isinstance(request.data, dict) else {}
        wanted = DEFAULTS | given
        if set(wanted) != set(FIELDS) or not all(isinstance(wanted[name], kind) for name, kind in FIELDS.items()):
            message = "An import is {dir, owner, visibility?, dry?}: an absolute path, a namespace, and how."
            raise Invalid(message, detail={"fields": list(FIELDS)})
        job = start_import(request.user, wanted["dir"], wanted["owner"], wanted["visibility"], dry=wanted["dry"])
        return Response({"job": job_json(job)}, status=202, headers={"Location": f"/api/v1/jobs/{job.pk}/"})


class ImportFolders(APIView):
    permission_classes = [IsAdminUser]

    @extend_schema(
        operation_id="imports_retrieve",
        parameters=[OpenApiParameter("verdict", str, enum=list(VERDICTS))],
        responses={200: OBJECT, 404: ERROR},
    )
    def get(self, request: Request, job_id: Any) -> Response:
        """What became of each folder so far: `{path, adapter, verdict, is_new, reason, …}`."""
        job = find_job(request.user, job_id)
        if job.kind != KIND:
            raise NotFound("That job is no import.")
        return paginated(request, folders_of(job, request.query_params.get("verdict", "")), folder_json)
