"""`POST /retrieve/`: the experts that fit a query."""

import json
from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework.exceptions import NotAuthenticated
from rest_framework.parsers import MultiPartParser
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from registry.api.parsers import BoundedJSONParser
from registry.api.schema import ERROR
from registry.api.upload_parts import refuse_unknown
from registry.describe import job_json
from registry.errors import Invalid, TooLarge
from retrieval.api.retrieve_schema import RETRIEVE_ANSWER, RETRIEVE_REQUEST, ROUTE, STATES_REQUEST
from retrieval.hidden_states import MAX_BYTES, PART
from retrieval.module_request import names_module_router
from retrieval.module_services import route_states, start_route
from retrieval.request import runs_base
from retrieval.services import retrieve

MAX_REQUEST_BYTES = 1024**2


class Retrieve(APIView):
    # Asking is reading: whoever may see an adapter may find it.
    permission_classes = [AllowAny]
    parser_classes = [BoundedJSONParser, MultiPartParser]

    @extend_schema(
        request={"application/json": RETRIEVE_REQUEST, "multipart/form-data": STATES_REQUEST},
        responses={
            200: RETRIEVE_ANSWER,
            202: ROUTE,
            400: ERROR,
            401: ERROR,
            404: ERROR,
            413: ERROR,
            422: ERROR,
            429: ERROR,
            503: ERROR,
        },
        examples=[
            OpenApiExample(
                "One query",
                request_only=True,
                value={"text": "Name the capital of Peru.", "k": 3, "filters": {"tag": ["qa"]}, "explain": True},
            )
        ],
    )
    def post(self, request: Request) -> Response:
        """Find the experts that fit a text, several texts, a task shown by examples, vectors, or another expert.

        Routers that look inside the base model (`arrow_global`, …) or run experts on the query (`lorahub`) have a
        worker run it: 202 with a job, whose result is the answer. The first answer hidden states that you send at once.
        """
        if (request.content_type or "").startswith("multipart/"):
            return Response(_route_states(request))
        if not runs_base(request.data):
            return Response(retrieve(request.user, request.data))
        if not request.user.is_authenticated:
            raise NotAuthenticated
        job = start_route(request.user, request.data)
        return Response({"job": job_json(job)}, status=202, headers={"Location": f"/api/v1/jobs/{job.pk}/"})


def _route_states(request: Request) -> dict[str, Any]:
    """Raises: TooLarge, Invalid: the parts; and as `route_states`."""
    # Before the body is read: what is spooled is bounded for uploads of whole adapters only.
    if int(request.META.get("CONTENT_LENGTH") or 0) > MAX_BYTES + 1024**2:
        raise TooLarge(f"{PART} may have at most {MAX_BYTES} bytes. Send fewer tokens, or half precision.")
    refuse_unknown(request.FILES, ("request", PART), "file")
    refuse_unknown(request.POST, ("request",), "field")
    if PART not in request.FILES:
        message = f"A multipart request has two parts: request, which is JSON, and the file {PART}."
        raise Invalid(message, detail={PART: "missing"})
    payload = _json(request)
    if not names_module_router(payload):
        message = "request must be a JSON object whose router looks inside the base model, such as arrow_global."
        raise Invalid(message, detail={"router": message})
    file = request.FILES[PART]
    return route_states(request.user, payload, file.file, file.size)


def _json(request: Request) -> Any:
    file = request.FILES.get("request")
    raw = file.read(MAX_REQUEST_BYTES) if file else request.POST.get("request", "")
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Invalid("The part request is not JSON.", detail={"request": "not JSON"}) from error
