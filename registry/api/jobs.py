"""`/jobs/`: the caller's own jobs."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from registry.api.pagination import paginated
from registry.api.schema import ERROR, JOB, page_of
from registry.describe import job_json
from registry.jobs import cancel
from registry.queries import find_job, own_jobs


class JobList(APIView):
    permission_classes = [IsAuthenticated]

    @extend_schema(operation_id="jobs_list", responses=page_of("Job", JOB))
    def get(self, request: Request) -> Response:
        return paginated(request, own_jobs(request.user).prefetch_related("log"), job_json)


class JobDetail(APIView):
    @extend_schema(responses={200: JOB, 404: ERROR})
    def get(self, request: Request, job_id: Any) -> Response:
        return Response(job_json(find_job(request.user, job_id)))


class JobCancel(APIView):
    permission_classes = [IsAuthenticated]

    @extend_schema(request=None, responses={200: JOB, 409: ERROR})
    def post(self, request: Request, job_id: Any) -> Response:
        cancel(find_job(request.user, job_id))
        return Response(job_json(find_job(request.user, job_id)))
