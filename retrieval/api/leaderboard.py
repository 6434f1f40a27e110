"""`GET /leaderboard/`: what `manage.py evaluate` has measured."""

from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from retrieval.leaderboard import boards
from retrieval.models import Evaluation

ROW = inline_serializer(
    "LeaderboardRow",
    {
        "subject": serializers.CharField(help_text="a router, a composition, or what they are compared with"),
        "title": serializers.CharField(),
        "kind": serializers.ChoiceField(["router", "composition", "reference"]),
        "is_reference": serializers.BooleanField(),
        "params": serializers.DictField(),
        "figures": serializers.DictField(help_text="shares are {value, low, high}, with 95 % intervals over tasks"),
    },
    many=True,
)
BOARD = inline_serializer(
    "LeaderboardBoard",
    {
        "suite": serializers.CharField(),
        "digest": serializers.CharField(help_text="sha256 over the suite's content"),
        "measure": serializers.ChoiceField(Evaluation.Measure.choices),
        "setting": serializers.DictField(help_text="samples, queries and space; of answers the base model, too"),
        "experts": serializers.IntegerField(allow_null=True),
        "queries": serializers.IntegerField(),
        "evaluated_at": serializers.DateTimeField(),
        "rows": ROW,
    },
    many=True,
)
ANSWER = inline_serializer("Leaderboard", {"count": serializers.IntegerField(), "results": BOARD})


class Leaderboard(APIView):
    permission_classes = [AllowAny]

    @extend_schema(
        parameters=[OpenApiParameter("suite", str, description="name or digest of a suite")], responses=ANSWER
    )
    def get(self, request: Request) -> Response:
        """Routers compared on suites, best first."""
        found = boards(request.query_params.get("suite", ""))
        return Response({"count": len(found), "results": found})
