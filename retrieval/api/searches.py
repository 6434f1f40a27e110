"""`/searches/`: beside `/merges/`, because inputs may come from a retrieval."""

from functools import partial
from typing import Any

from drf_spectacular.utils import extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from lora.search import STRATEGIES
from registry.api.parsers import BoundedJSONParser
from registry.api.schema import ERROR
from registry.searches import MAX_BOUND, MAX_BUDGET, find_search, search_json, start_search, tell
from retrieval.api.merges import resolve_inputs

# These document what `registry.searches` reads and writes.
NEW_SEARCH = inline_serializer(
    "NewSearch",
    {
        "inputs": serializers.ListField(
            child=serializers.JSONField(), help_text="as of POST /merges/; their weights are where the search begins"
        ),
        "strategy": serializers.ChoiceField(list(STRATEGIES), required=False),
        "budget": serializers.IntegerField(required=False, help_text=f"losses to be told, 1 to {MAX_BUDGET}; 40"),
        "bound": serializers.FloatField(required=False, help_text=f"largest size of a weight, up to {MAX_BOUND}; 1.5"),
        "seed": serializers.IntegerField(required=False, help_text="decides every random number; 0"),
    },
)
ASK = inline_serializer(
    "Ask", {"number": serializers.IntegerField(), "weights": serializers.ListField(child=serializers.FloatField())}
)
BEST = inline_serializer(
    "Best", {"weights": serializers.ListField(child=serializers.FloatField()), "loss": serializers.FloatField()}
)
SEARCH = inline_serializer(
    "Search",
    {
        "id": serializers.UUIDField(),
        "status": serializers.ChoiceField(["running", "finished"]),
        "inputs": serializers.ListField(child=serializers.JSONField(), help_text="with resolved revisions"),
        "strategy": serializers.ChoiceField(list(STRATEGIES)),
        "budget": serializers.IntegerField(),
        "bound": serializers.FloatField(),
        "seed": serializers.IntegerField(),
        "losses": serializers.ListField(child=serializers.FloatField()),
        "ask": ASK,
        "best": BEST,
        "merge": serializers.DictField(help_text="body of POST /merges/ with the best weights so far; null before any"),
        "created_at": serializers.DateTimeField(),
    },
)
TOLD = inline_serializer(
    "Told", {"ask": serializers.IntegerField(help_text="ask.number"), "loss": serializers.FloatField()}
)


class SearchList(APIView):
    permission_classes = [IsAuthenticated]
    parser_classes = [BoundedJSONParser]

    @extend_schema(request=NEW_SEARCH, responses={201: SEARCH, 400: ERROR, 422: ERROR})
    def post(self, request: Request) -> Response:
        """Search the weights of a merge with losses that you compute: evaluate `ask`, tell its loss, and so on."""
        search = start_search(request.user, request.data, partial(resolve_inputs, request.user))
        return Response(search_json(search), status=201, headers={"Location": f"/api/v1/searches/{search.pk}/"})


class SearchDetail(APIView):
    @extend_schema(responses={200: SEARCH, 404: ERROR})
    def get(self, request: Request, search_id: Any) -> Response:
        """Where a search stands: what it asks, the best weights so far, and the merge with them."""
        return Response(search_json(find_search(request.user, search_id)))


class SearchTell(APIView):
    permission_classes = [IsAuthenticated]
    parser_classes = [BoundedJSONParser]

    @extend_schema(request=TOLD, responses={200: SEARCH, 400: ERROR, 404: ERROR, 409: ERROR})
    def post(self, request: Request, search_id: Any) -> Response:
        """Tell the loss of what was asked."""
        return Response(search_json(tell(find_search(request.user, search_id), request.data)))
