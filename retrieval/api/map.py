"""`GET /map/`: where the experts are on the map."""

from django.utils.decorators import method_decorator
from django.views.decorators.gzip import gzip_page
from django.views.decorators.http import conditional_page
from drf_spectacular.utils import extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from retrieval.map import map_of_experts
from retrieval.plane import UNIT

WHOLE = serializers.IntegerField


def _column(child: serializers.Field, text: str) -> serializers.ListField:
    return serializers.ListField(child=child, help_text=text)


MAP = inline_serializer(
    "MapOfExperts",
    {
        "version": serializers.CharField(help_text="of the plane; `evidence.map` of a retrieval names it, too"),
        "total": WHOLE(help_text="number of experts with samples"),
        "count": WHOLE(help_text="number of points; 0 where there is too little to draw"),
        "names": _column(serializers.CharField(), "owner/name of each"),
        "x": _column(WHOLE(), f"in units of {UNIT:g}"),
        "y": _column(WHOLE(), f"in units of {UNIT:g}"),
        "base_models": _column(serializers.CharField(), "the commonest first"),
        "base_model": _column(WHOLE(), "place in `base_models`, -1 where it is not stated"),
        "tags": _column(serializers.CharField(), "the commonest first"),
        "tag": _column(WHOLE(), "place in `tags` of the expert's commonest tag, -1 where it has none"),
    },
)


@method_decorator([gzip_page, conditional_page], name="dispatch")
class MapOfExperts(APIView):
    permission_classes = [AllowAny]

    @extend_schema(responses=MAP)
    def get(self, request: Request) -> Response:
        """The experts with samples as points, close together where their samples are alike."""
        return Response(map_of_experts(request.user), headers={"Cache-Control": "private, no-cache"})
