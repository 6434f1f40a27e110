"""`/compositions/`: trained gates over a set of experts."""

import json

from django.http import HttpResponseBase
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.parsers import MultiPartParser
from rest_framework.permissions import IsAuthenticatedOrReadOnly
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from lora.composing import GATES, MAX_BYTES
from lora.compositions import COMPOSITIONS
from registry.api.pagination import paginated
from registry.api.parsers import BoundedJSONParser
from registry.api.schema import BINARY, ERROR, page_of
from registry.api.upload_parts import refuse_unknown
from registry.describe import job_json
from registry.downloads import archive_response
from registry.errors import Invalid, TooLarge
from registry.intake import NewFile
from retrieval.bundles import MAX_EXPERTS
from retrieval.composing import admit, parse_order, prepare
from retrieval.composition_jobs import MAX_STEPS, start_training
from retrieval.compositions import (
    FILTERS,
    composition_files,
    composition_json,
    delete_composition,
    filtered,
    find_composition,
    visible_compositions,
)
from retrieval.models import Composition

PART = "gates"
MAX_REQUEST_BYTES = 1024**2

# These document what `retrieval.composing` and `retrieval.compositions` read and write.
_NAMED = {
    "name": serializers.CharField(help_text="owner/name"),
    "type": serializers.ChoiceField(COMPOSITIONS.names()),
    "adapters": serializers.ListField(
        child=serializers.JSONField(),
        max_length=MAX_EXPERTS,
        help_text="owner/name, or {adapter, revision?}; gates count the experts in this order",
    ),
    "base_model": serializers.CharField(required=False, help_text="of the experts; compared where it is given"),
    "params": serializers.DictField(required=False, help_text="of the type; see compositions of GET /methods/"),
    "visibility": serializers.ChoiceField(["public", "private"], required=False),
    "description": serializers.CharField(required=False),
}
TO_TRAIN = inline_serializer(
    "CompositionToTrain",
    _NAMED
    | {
        "train": inline_serializer(
            "CompositionTraining",
            {
                "steps": serializers.IntegerField(required=False, min_value=1, max_value=MAX_STEPS),
                "seed": serializers.IntegerField(required=False, min_value=0),
            },
        )
    },
)
UPLOADED = inline_serializer(
    "CompositionUpload",
    {
        "request": serializers.CharField(help_text="JSON: the same without train"),
        PART: serializers.FileField(help_text="safetensors: <place>.<tensor>, a place being a module or a part"),
    },
)
COMPOSITION = inline_serializer(
    "Composition",
    {
        "name": serializers.CharField(),
        "owner": serializers.CharField(),
        "revision": serializers.CharField(help_text="40 hex"),
        "type": serializers.CharField(),
        "params": serializers.DictField(help_text="with every default"),
        "runs": serializers.BooleanField(help_text="whether composition.py of the archive runs it"),
        "base_model": serializers.CharField(),
        "adapters": serializers.ListField(child=serializers.JSONField(), help_text="[{adapter, revision}]"),
        "visibility": serializers.CharField(help_text="private where one of the experts is"),
        "description": serializers.CharField(),
        "places": serializers.ListField(child=serializers.CharField(), help_text="modules and parts with a gate"),
        "training": serializers.DictField(allow_null=True, help_text="{steps, seed, losses} where a worker trained"),
        "files": serializers.ListField(child=serializers.JSONField(), help_text="[{path, size_bytes, sha256}]"),
        "created_at": serializers.DateTimeField(),
        "urls": serializers.DictField(),
    },
)
ASKED = inline_serializer(
    "CompositionAndJob",
    {
        "composition": serializers.JSONField(allow_null=True, help_text="as GET …/{owner}/{name}/ has it, or null"),
        "job": serializers.JSONField(allow_null=True, help_text="as GET /jobs/{id}/ has it, or null"),
    },
)
REF = OpenApiParameter("revision", str, description="main (default) or 40 hex digits")


class CompositionList(APIView):
    permission_classes = [IsAuthenticatedOrReadOnly]
    parser_classes = [BoundedJSONParser, MultiPartParser]

    @extend_schema(
        operation_id="compositions_list",
        parameters=[OpenApiParameter(name, str, many=True) for name in FILTERS],
        responses={200: page_of("Composition", COMPOSITION), 400: ERROR},
    )
    def get(self, request: Request) -> Response:
        """Public ones and your own, the newest first; of several `adapter`, those that have all of them."""
        rows = filtered(visible_compositions(request.user), dict(request.query_params.lists()))
        return paginated(request, rows, composition_json)

    @extend_schema(
        request={"application/json": TO_TRAIN, "multipart/form-data": UPLOADED},
        responses={
            **dict.fromkeys((200, 201, 202), ASKED),
            **dict.fromkeys((400, 401, 403, 404, 409, 413, 422, 429, 503), ERROR),
        },
        examples=[
            OpenApiExample(
                "Train LoRA-Flow over two experts",
                request_only=True,
                value={
                    "name": "ada/both",
                    "type": "lora_flow",
                    "adapters": ["demo/antonym", "demo/pluralise"],
                    "train": {"steps": 100},
                },
            )
        ],
    )
    def post(self, request: Request) -> Response:
        """Add a composition or a version of one: with its gates, or to be trained by a worker on the experts' samples.

        201 with what was stored; 200 where the name had exactly this already; 202 with the job that trains.
        """
        if (request.content_type or "").startswith("multipart/"):
            row, is_new = _upload(request)
            body = {"composition": composition_json(row), "job": None}
            return Response(body, status=201 if is_new else 200, headers={"Location": _url(row)})
        order = parse_order(request.user, request.data)
        if request.data.get("train") is None:
            text = f"Send gates as a multipart request of two parts, request and {PART}, or train to have them trained."
            raise Invalid(text, detail={PART: "missing"})
        job = start_training(request.user, order, request.data["train"])
        body = {"composition": None, "job": job_json(job)}
        return Response(body, status=202, headers={"Location": f"/api/v1/jobs/{job.pk}/"})


def _upload(request: Request) -> tuple[Composition, bool]:
    """Raises: TooLarge, Invalid: the parts; and as `parse_order`, `prepare` and `admit`."""
    # Before the body is read: what is spooled is bounded for uploads of whole adapters only.
    if int(request.META.get("CONTENT_LENGTH") or 0) > MAX_BYTES + MAX_REQUEST_BYTES:
        raise TooLarge(f"{PART} may have at most {MAX_BYTES} bytes. Send half precision, or gates of fewer places.")
    refuse_unknown(request.FILES, ("request", PART), "file")
    refuse_unknown(request.POST, ("request",), "field")
    if PART not in request.FILES:
        text = f"A multipart request has two parts: request, which is JSON, and the file {PART} ({GATES})."
        raise Invalid(text, detail={PART: "missing"})
    file = request.FILES.get("request")
    raw = file.read(MAX_REQUEST_BYTES) if file else request.POST.get("request", "")
    try:
        payload = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Invalid("The part request is not JSON.", detail={"request": "not JSON"}) from error
    order = parse_order(request.user, payload)
    if payload.get("train") is not None:
        raise Invalid("Send either gates or train, not both.", detail={"train": "with gates"})
    gates = request.FILES[PART]
    return admit(request.user, prepare(order, NewFile(gates.path, gates.sha256)))


def _url(row: Composition) -> str:
    return f"/api/v1/compositions/{row.full_name}/"


class CompositionDetail(APIView):
    permission_classes = [IsAuthenticatedOrReadOnly]

    @extend_schema(operation_id="compositions_retrieve", parameters=[REF], responses={200: COMPOSITION, 404: ERROR})
    def get(self, request: Request, owner: str, name: str) -> Response:
        return Response(composition_json(_find(request, owner, name)))

    @extend_schema(operation_id="compositions_delete", responses={204: None, 401: ERROR, 403: ERROR, 404: ERROR})
    def delete(self, request: Request, owner: str, name: str) -> Response:
        """Take it away with all its versions. The experts stay."""
        delete_composition(request.user, f"{owner}/{name}")
        return Response(status=204)


class CompositionArchive(APIView):
    @extend_schema(parameters=[REF], responses={(200, "application/zip"): BINARY, 404: ERROR, 409: ERROR})
    def get(self, request: Request, owner: str, name: str) -> HttpResponseBase:
        """Manifest, gates, adapters and what runs them, as an uncompressed zip; the same bytes whenever asked for."""
        row = _find(request, owner, name)
        return archive_response(f"{name}-{row.commit[:12]}", composition_files(request.user, row))


def _find(request: Request, owner: str, name: str) -> Composition:
    return find_composition(request.user, f"{owner}/{name}", request.query_params.get("revision", "main"))
