"""`GET /methods/`: routers, prototypes and merges, with the schemas of their parameters."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from lora.catalogue import Catalogue
from lora.merges import FAMILIES, MERGES, PROPERTIES
from lora.prototypes import PROTOTYPES
from lora.routers import ROUTERS

DESCRIPTION = {
    "name": serializers.CharField(),
    "title": serializers.CharField(),
    "summary": serializers.CharField(),
    "source": serializers.CharField(),
    "needs": serializers.ListField(child=serializers.CharField()),
    "params": serializers.DictField(help_text="JSON Schema"),
}
MERGE_TRAITS = {
    "family": serializers.ChoiceField(list(FAMILIES)),
    "weights": serializers.ChoiceField(["absolute", "relative"]),
    "when": serializers.CharField(help_text="when to use it"),
    "lacks": serializers.ListField(
        child=serializers.ChoiceField(list(PROPERTIES)), help_text="properties that it does not have"
    ),
    "rank_aware": serializers.BooleanField(required=False, help_text="the output's rank is part of the rule"),
    "rank_mode": serializers.CharField(required=False, help_text="the only rank.mode that it can write"),
    "max_inputs": serializers.IntegerField(required=False, help_text="how many inputs it takes"),
    "equal_ranks": serializers.BooleanField(required=False, help_text="all inputs must have one rank"),
}
METHOD = inline_serializer("Method", DESCRIPTION, many=True)
MERGE_METHOD = inline_serializer("MergeMethod", DESCRIPTION | MERGE_TRAITS, many=True)
METHODS = inline_serializer("Methods", {"routers": METHOD, "prototypes": METHOD, "merges": MERGE_METHOD})


class Methods(APIView):
    @extend_schema(
        parameters=[OpenApiParameter("have", str, description="comma-separated; only methods that need nothing else")],
        responses=METHODS,
    )
    def get(self, request: Request) -> Response:
        """Every method that this server knows."""
        have = request.query_params.get("have")
        at_hand = None if have is None else {word.strip() for word in have.split(",")}
        return Response(
            {
                "routers": _usable(ROUTERS, at_hand),
                "prototypes": _usable(PROTOTYPES, at_hand),
                "merges": _usable(MERGES, at_hand),
            }
        )


def _usable(catalogue: Catalogue, at_hand: set[str] | None) -> list[dict[str, Any]]:
    methods = catalogue.describe()
    return [method for method in methods if at_hand is None or set(method["needs"]) <= at_hand]
