"""`/outcomes/`: how well experts did on texts, which routers and rankings learn from."""

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.permissions import IsAuthenticatedOrReadOnly
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from lora.strict_json import is_storable
from registry.api.pagination import paginated
from registry.api.parsers import BoundedJSONParser
from registry.api.schema import ERROR, page_of
from registry.errors import Invalid
from retrieval.models import Outcome
from retrieval.outcome_requests import MAX_BATCH, MAX_CHARS, is_batch, read_id
from retrieval.outcomes import delete_outcome, find_outcome, outcome_json, report, seen_outcomes

NEW = {
    "adapter": serializers.CharField(help_text="owner/name, which you may see"),
    "revision": serializers.CharField(required=False, help_text="whose weights answered; main"),
    "text": serializers.CharField(required=False, max_length=MAX_CHARS, help_text="what the expert was asked"),
    "probe": serializers.UUIDField(required=False, help_text="in the place of text: the id of one that you have sent"),
    "score": serializers.FloatField(min_value=0, max_value=1, help_text="how good the answer was"),
    "cost": serializers.FloatField(required=False, min_value=0, help_text="of the answer, in a unit of your own"),
}
NEW_OUTCOMES = inline_serializer(
    "NewOutcomes",
    NEW
    | {
        "outcomes": serializers.ListField(
            child=inline_serializer("NewOutcome", NEW),
            required=False,
            max_length=MAX_BATCH,
            help_text="a batch of such, in the place of the other fields",
        )
    },
)
OUTCOME = inline_serializer(
    "Outcome",
    {
        "id": serializers.UUIDField(),
        "adapter": serializers.CharField(),
        "revision": serializers.CharField(),
        "probe": serializers.UUIDField(help_text="the same text of the same caller is the same probe"),
        "text": serializers.CharField(allow_null=True, help_text="null unless you have sent it"),
        "score": serializers.FloatField(),
        "cost": serializers.FloatField(allow_null=True),
        "source": serializers.ChoiceField(Outcome.Source.choices),
        "own": serializers.BooleanField(help_text="whether you have reported it"),
        "created_at": serializers.DateTimeField(),
        "updated_at": serializers.DateTimeField(),
    },
)
FILTERS = [
    OpenApiParameter("adapter", str, description="owner/name"),
    OpenApiParameter("probe", str, description="id"),
    OpenApiParameter("own", str, enum=["true", "false"], description="what you have reported, or what others have"),
    OpenApiParameter("source", str, enum=list(Outcome.Source.values)),
]


class OutcomeList(APIView):
    permission_classes = [IsAuthenticatedOrReadOnly]
    parser_classes = [BoundedJSONParser]

    @extend_schema(operation_id="outcomes_list", parameters=FILTERS, responses=page_of("Outcome", OUTCOME))
    def get(self, request: Request) -> Response:
        """Outcomes of the adapters that you may see, newest first."""
        rows = _filtered(request, seen_outcomes(request.user))
        return paginated(request, rows, lambda row: outcome_json(request.user, row))

    @extend_schema(
        request=NEW_OUTCOMES,
        responses={201: OUTCOME, 200: OUTCOME, 400: ERROR, 401: ERROR, 404: ERROR, 409: ERROR, 503: ERROR},
        examples=[
            OpenApiExample(
                "One answer",
                request_only=True,
                value={"adapter": "ada/capitals", "text": "Name the capital of Peru.", "score": 1, "cost": 0.2},
            )
        ],
    )
    def post(self, request: Request) -> Response:
        """Say how well an adapter did on a text; again for the same adapter and text, it replaces what you said.

        A batch is stored as a whole or not at all, and is answered with `{outcomes}` in its order.
        """
        rows, is_new = report(request.user, request.data)
        told = [outcome_json(request.user, row) for row in rows]
        body = {"outcomes": told} if is_batch(request.data) else told[0]
        return Response(body, status=201 if is_new else 200)


class OutcomeDetail(APIView):
    permission_classes = [IsAuthenticatedOrReadOnly]

    @extend_schema(operation_id="outcomes_retrieve", responses={200: OUTCOME, 404: ERROR})
    def get(self, request: Request, outcome_id: Any) -> Response:
        return Response(outcome_json(request.user, find_outcome(request.user, outcome_id)))

    @extend_schema(responses={204: None, 401: ERROR, 403: ERROR, 404: ERROR})
    def delete(self, request: Request, outcome_id: Any) -> Response:
        """Take back what you have reported; its text is erased with the last outcome of it."""
        delete_outcome(request.user, outcome_id)
        return Response(status=204)


def _filtered(request: Request, rows: QuerySet[Outcome]) -> QuerySet[Outcome]:
    """Raises: Invalid: a filter that is none, or a value that it cannot have."""
    asked = request.query_params
    if adapter := asked.get("adapter"):
        rows = rows.filter(adapter__full_name=adapter) if is_storable(adapter) else rows.none()
    if probe := asked.get("probe"):
        rows = rows.filter(probe=read_id(probe, "probe"))
    if own := _one_of(request, "own", ("true", "false")):
        mine = rows.filter(probe__owner_id=request.user.pk)
        rows = mine if own == "true" else rows.exclude(probe__owner_id=request.user.pk)
    if source := _one_of(request, "source", Outcome.Source.values):
        rows = rows.filter(source=source)
    return rows


def _one_of(request: Request, name: str, known: Any) -> str | None:
    value = request.query_params.get(name)
    if value is not None and value not in known:
        message = f"{name} must be one of {', '.join(known)}."
        raise Invalid(message, detail={name: message})
    return value
