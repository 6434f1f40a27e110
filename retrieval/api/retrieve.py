"""`POST /retrieve/`: the experts that fit a query."""

from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from registry.api.schema import ERROR
from retrieval.request import FILTERS, MAX_K, MAX_TEXTS
from retrieval.services import retrieve


# These document the request and the answer; `retrieval.request` reads the one, `retrieval.services` writes the other.
def _strings(**options: Any) -> serializers.ListField:
    return serializers.ListField(child=serializers.CharField(), required=False, **options)


RETRIEVE_REQUEST = inline_serializer(
    "RetrieveRequest",
    {
        "router": serializers.CharField(required=False, help_text="lora_retriever; see /methods/"),
        "text": serializers.CharField(required=False, help_text="one query; or texts, or examples"),
        "texts": _strings(max_length=MAX_TEXTS, help_text="one result each"),
        "examples": serializers.ListField(
            child=inline_serializer(
                "RetrieveExample",
                {"input": serializers.CharField(), "output": serializers.CharField(required=False)},
            ),
            required=False,
            max_length=MAX_TEXTS,
            help_text="inputs of one task: one result",
        ),
        "k": serializers.IntegerField(min_value=1, max_value=MAX_K, required=False),
        "base_model": serializers.CharField(required=False, help_text="name or alias; all where it is left out"),
        "filters": inline_serializer("RetrieveFilters", {name: _strings() for name in FILTERS}, required=False),
        "params": serializers.DictField(required=False, help_text="of the router; see /methods/"),
        "explain": serializers.BooleanField(required=False, help_text="adds evidence, licence and rank"),
    },
)
EVIDENCE = inline_serializer(
    "RetrieveEvidence",
    {
        "samples": inline_serializer(
            "RetrieveEvidenceSample",
            {
                "input": serializers.CharField(required=False, help_text="absent where the owner hides samples"),
                "score": serializers.FloatField(),
            },
            many=True,
        )
    },
    required=False,
)
MATCH = inline_serializer(
    "RetrieveMatch",
    {
        "adapter": serializers.CharField(),
        "revision": serializers.CharField(),
        "base_model": serializers.CharField(),
        "score": serializers.FloatField(help_text="higher is better"),
        "weight": serializers.FloatField(help_text="at least 0; sums to 1 over the matches"),
        "license": serializers.CharField(required=False, allow_null=True, help_text="with explain"),
        "rank": serializers.IntegerField(required=False, allow_null=True, help_text="with explain"),
        "evidence": EVIDENCE,
    },
    many=True,
)
RESULT = inline_serializer(
    "RetrieveResult",
    {
        "abstained": serializers.BooleanField(),
        "reason": serializers.CharField(allow_null=True, help_text="no_experts or below_threshold"),
        "matches": MATCH,
    },
    many=True,
)
RETRIEVE_ANSWER = inline_serializer(
    "RetrieveAnswer",
    {
        "router": serializers.CharField(),
        "space": serializers.CharField(),
        "index_version": serializers.CharField(),
        "took_ms": inline_serializer(
            "RetrieveTimes", {"encode": serializers.FloatField(), "search": serializers.FloatField()}
        ),
        "results": RESULT,
    },
)


class Retrieve(APIView):
    # Asking is reading: whoever may see an adapter may find it.
    permission_classes = [AllowAny]

    @extend_schema(
        request=RETRIEVE_REQUEST,
        responses={200: RETRIEVE_ANSWER, 400: ERROR, 503: ERROR},
        examples=[
            OpenApiExample(
                "One query",
                request_only=True,
                value={"text": "Name the capital of Peru.", "k": 3, "filters": {"tag": ["qa"]}, "explain": True},
            )
        ],
    )
    def post(self, request: Request) -> Response:
        """Find the experts that fit a text, several texts, or a task shown by examples."""
        return Response(retrieve(request.user, request.data))
