"""`GET /adapters/{owner}/{name}/similar/`: adapters that are like this one."""

from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from registry.api.schema import ERROR
from registry.errors import Invalid
from registry.queries import find_adapter
from retrieval.request import MAX_K
from retrieval.similar import WAYS, similar

DEFAULT_K = 10
SIMILAR = inline_serializer(
    "SimilarAdapter", {"adapter": serializers.CharField(), "score": serializers.FloatField()}, many=True
)


class AdapterSimilar(APIView):
    @extend_schema(
        operation_id="adapters_similar_list",
        parameters=[
            OpenApiParameter("by", str, enum=list(WAYS), default="samples"),
            OpenApiParameter("k", int, default=DEFAULT_K, description=f"1 to {MAX_K}"),
        ],
        responses={200: SIMILAR, 400: ERROR, 404: ERROR},
    )
    def get(self, request: Request, owner: str, name: str) -> Response:
        """The adapters most like this one, by samples, Arrow prototypes, the exact cosine of ΔW, or its estimate."""
        adapter = find_adapter(request.user, f"{owner}/{name}")
        by = request.query_params.get("by", "samples")
        return Response(similar(request.user, adapter, by, _k(request.query_params.get("k"))))


def _k(text: str | None) -> int:
    if text is None:
        return DEFAULT_K
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_K)) and 1 <= int(text) <= MAX_K):
        message = f"k must be a whole number from 1 to {MAX_K}."
        raise Invalid(message, detail={"k": message})
    return int(text)
