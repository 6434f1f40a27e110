"""`/bundles/`: archives for routing inside the model."""

from functools import partial
from typing import Any

from django.http import HttpResponseBase
from drf_spectacular.utils import OpenApiExample, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from lora.bundles import BUNDLES
from registry.api.pagination import paginated
from registry.api.parsers import BoundedJSONParser
from registry.api.schema import BINARY, ERROR, JOB, page_of
from registry.describe import job_json
from registry.downloads import archive_response
from registry.models import Job
from retrieval.api.merges import resolve_inputs
from retrieval.bundles import MAX_EXPERTS, bundle_files, bundle_json, find_bundle, parse_order, request_bundle
from retrieval.models import Bundle

# These document what `retrieval.bundles` reads and writes.
NEW_BUNDLE = inline_serializer(
    "NewBundle",
    {
        "router": serializers.ChoiceField(BUNDLES.names()),
        "adapters": serializers.ListField(
            child=serializers.JSONField(),
            required=False,
            max_length=MAX_EXPERTS,
            help_text="owner/name, or {adapter, revision?}; experts count in this order",
        ),
        "retrieve": serializers.DictField(
            required=False, help_text="instead of adapters: the body of POST /retrieve/ whose matches are taken"
        ),
        "params": serializers.DictField(required=False, help_text="see bundles of GET /methods/"),
    },
)
BUNDLE = inline_serializer(
    "Bundle",
    {
        "id": serializers.UUIDField(),
        "router": serializers.CharField(),
        "params": serializers.DictField(help_text="with every default"),
        "base_model": serializers.CharField(),
        "adapters": serializers.ListField(child=serializers.JSONField(), help_text="[{adapter, revision}]"),
        "status": serializers.CharField(help_text="in the words of jobs"),
        "warnings": serializers.ListField(child=serializers.JSONField(), help_text="[{code, message}]"),
        "files": serializers.ListField(
            child=serializers.JSONField(), help_text="[{path, size_bytes, sha256}]; empty before it is finished"
        ),
        "size_bytes": serializers.IntegerField(),
        "created_at": serializers.DateTimeField(),
    },
)
ASKED = inline_serializer("BundleAndJob", {"bundle": BUNDLE, "job": JOB})


class BundleList(APIView):
    permission_classes = [IsAuthenticated]
    parser_classes = [BoundedJSONParser]

    @extend_schema(operation_id="bundles_list", responses=page_of("Bundle", BUNDLE))
    def get(self, request: Request) -> Response:
        """Your own, the newest first."""
        rows = Bundle.objects.filter(owner_id=request.user.pk).select_related("job")
        return paginated(request, rows, bundle_json)

    @extend_schema(
        request=NEW_BUNDLE,
        responses={200: ASKED, 202: ASKED, 400: ERROR, 404: ERROR, 409: ERROR, 422: ERROR, 429: ERROR, 503: ERROR},
        examples=[
            OpenApiExample(
                "Arrow over three experts",
                request_only=True,
                value={"router": "arrow", "adapters": ["demo/antonym", "demo/pluralise"], "params": {"top_k": 1}},
            )
        ],
    )
    def post(self, request: Request) -> Response:
        """Bundle experts of one base model with a router that decides inside the model, for whoever runs it."""
        order = parse_order(request.user, request.data, partial(resolve_inputs, request.user))
        bundle, job = request_bundle(request.user, order)
        return Response(
            {"bundle": bundle_json(bundle), "job": job_json(job)},
            status=200 if job.status == Job.Status.SUCCEEDED else 202,
            headers={"Location": f"/api/v1/jobs/{job.pk}/"},
        )


class BundleDetail(APIView):
    @extend_schema(operation_id="bundles_retrieve", responses={200: BUNDLE, 404: ERROR})
    def get(self, request: Request, bundle_id: Any) -> Response:
        return Response(bundle_json(find_bundle(request.user, bundle_id)))


class BundleArchive(APIView):
    @extend_schema(responses={(200, "application/zip"): BINARY, 404: ERROR, 409: ERROR})
    def get(self, request: Request, bundle_id: Any) -> HttpResponseBase:
        """The files of a bundle as an uncompressed zip; the same bytes whenever it is asked for."""
        bundle = find_bundle(request.user, bundle_id)
        return archive_response(f"bundle-{bundle.router}-{bundle.pk}", bundle_files(bundle))
