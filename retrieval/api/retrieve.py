"""`POST /retrieve/`: the experts that fit a query."""

import json
from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.exceptions import NotAuthenticated
from rest_framework.parsers import MultiPartParser
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from registry.api.parsers import BoundedJSONParser
from registry.api.schema import ERROR, JOB
from registry.api.upload_parts import refuse_unknown
from registry.describe import job_json
from registry.errors import Invalid, TooLarge
from retrieval.hidden_states import MAX_BYTES, PART
from retrieval.module_request import names_module_router
from retrieval.module_services import route_states, start_route
from retrieval.request import FILTERS, MAX_DIM, MAX_K, MAX_TEXTS, runs_base
from retrieval.services import retrieve

MAX_REQUEST_BYTES = 1024**2


# These document the request and the answer; `retrieval.request` reads the one, `retrieval.services` writes the other.
def _strings(**options: Any) -> serializers.ListField:
    return serializers.ListField(child=serializers.CharField(), required=False, **options)


def _numbers(**options: Any) -> serializers.ListField:
    return serializers.ListField(child=serializers.FloatField(), required=False, max_length=MAX_DIM, **options)


RETRIEVE_REQUEST = inline_serializer(
    "RetrieveRequest",
    {
        "router": serializers.CharField(
            required=False, help_text="hybrid unless you name one, lora_retriever for vectors; see /methods/"
        ),
        "text": serializers.CharField(required=False, help_text="one query; or one of the other forms"),
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
        "vector": _numbers(help_text="one query of the space; any length but 0"),
        "vectors": serializers.ListField(
            child=_numbers(), required=False, max_length=MAX_TEXTS, help_text="one result each"
        ),
        "space": serializers.CharField(required=False, help_text="of the vectors: the one that answers say"),
        "adapter": serializers.CharField(required=False, help_text="owner/name: what is like this one"),
        "k": serializers.IntegerField(min_value=1, max_value=MAX_K, required=False),
        "base_model": serializers.CharField(required=False, help_text="name or alias; all where it is left out"),
        "filters": inline_serializer("RetrieveFilters", {name: _strings() for name in FILTERS}, required=False),
        "params": serializers.DictField(required=False, help_text="of the router; see /methods/"),
        "explain": serializers.BooleanField(required=False, help_text="adds evidence, licence and rank"),
        "outcomes": serializers.BooleanField(
            required=False, help_text="what experts scored near the query shifts their ranks; false"
        ),
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
        ),
        "outcomes": inline_serializer(
            "RetrieveEvidenceOutcomes",
            {
                "shift": serializers.FloatField(help_text="of the score"),
                "expected": serializers.FloatField(help_text="score of an answer, by the outcomes near the query"),
                "unmeasured": serializers.FloatField(help_text="the same for an expert without any"),
                "count": serializers.IntegerField(help_text="outcomes that count"),
                "nearest": inline_serializer(
                    "RetrieveEvidenceOutcome",
                    {
                        "id": serializers.UUIDField(),
                        "score": serializers.FloatField(),
                        "cosine": serializers.FloatField(help_text="of its text with the query"),
                        "weight": serializers.FloatField(help_text="1 on the very text"),
                        "text": serializers.CharField(required=False, help_text="where you have sent it"),
                    },
                    many=True,
                ),
            },
            required=False,
            help_text="with the switch outcomes",
        ),
        "description": serializers.CharField(required=False, help_text="of the router description: what it compared"),
        "predicted": inline_serializer(
            "RetrieveEvidencePredicted",
            {
                "score": serializers.FloatField(),
                "cost": serializers.FloatField(allow_null=True),
                "outcomes": serializers.IntegerField(help_text="that the expert has"),
            },
            required=False,
            help_text="of routers from outcomes: what to expect of the expert's answer",
        ),
        "layers": inline_serializer(
            "RetrieveEvidenceLayer",
            {"layer": serializers.IntegerField(), "score": serializers.FloatField()},
            many=True,
            required=False,
            help_text="of routers that look inside: what each layer says of the expert",
        ),
        "samples_shift": serializers.FloatField(
            required=False, help_text="of arrow_global: what samples add to the score, or take from it"
        ),
        "loss_without": serializers.FloatField(
            required=False, help_text="of lorahub: the loss of the answers with all that was found but this expert"
        ),
        "log_likelihood": serializers.FloatField(
            required=False, help_text="of what_the_weight by prior: of a text with this expert, in the mean"
        ),
        "entropy": serializers.FloatField(
            required=False, help_text="of what_the_weight by entropy: of what follows a token, in the mean"
        ),
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
        "compositions": _strings(help_text="with explain: those that the expert is in"),
        "evidence": EVIDENCE,
    },
    many=True,
)
DECIDED = inline_serializer(
    "RetrieveDecided",
    {
        "margin": serializers.FloatField(required=False, allow_null=True, help_text="of the best score over the next"),
        "fits": serializers.FloatField(required=False, help_text="probability that the right expert is there"),
        "familiar": serializers.FloatField(
            required=False, help_text="probability that the text is of a kind that any of the experts could be for"
        ),
        "threshold": serializers.FloatField(required=False, help_text="of `familiar`, below which the router abstains"),
        "map": inline_serializer(
            "RetrievePlace",
            {
                "version": serializers.CharField(help_text="of the plane, as `GET /map/` names it"),
                "x": serializers.IntegerField(),
                "y": serializers.IntegerField(),
            },
            required=False,
            help_text="where the query is on the map of experts",
        ),
        "picks": inline_serializer(
            "RetrievePick",
            {
                "layer": serializers.IntegerField(),
                "adapter": serializers.CharField(),
                "score": serializers.FloatField(),
            },
            many=True,
            required=False,
            help_text="of routers that look inside: the expert that each layer says most of, of all in question",
        ),
    },
    required=False,
    help_text="with explain, what the router tells beyond its matches: hybrid the first three",
)
RESULT = inline_serializer(
    "RetrieveResult",
    {
        "abstained": serializers.BooleanField(),
        "reason": serializers.CharField(allow_null=True, help_text="no_experts, below_threshold or no_outcomes"),
        "message": serializers.CharField(required=False, help_text="with no_outcomes: what to report"),
        "matches": MATCH,
        "prompt": serializers.CharField(
            required=False, help_text='of description with {"choose": "prompt"}: what to ask a language model'
        ),
        "compositions": _strings(help_text="of ramole: those of its type that hold every match"),
        "evidence": DECIDED,
        "loss": inline_serializer(
            "RetrieveLoss",
            {
                "before": serializers.FloatField(help_text="of the base alone"),
                "after": serializers.FloatField(help_text="with the inputs on top"),
                "tried": serializers.IntegerField(help_text="weights that were tried"),
            },
            required=False,
            help_text="of lorahub: the mean −log p per token of the answers",
        ),
        "inputs": serializers.ListField(
            child=serializers.JSONField(),
            required=False,
            help_text="of lorahub: [{adapter, revision, weight}] for a weighted_sum; weights are of any sign",
        ),
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
        "warnings": inline_serializer(
            "RetrieveWarning",
            {"code": serializers.CharField(), "message": serializers.CharField()},
            many=True,
            required=False,
            help_text="of routers that run the base: what speaks against the scores",
        ),
        "skipped": serializers.ListField(
            child=serializers.JSONField(),
            required=False,
            help_text="of routers that run experts: [{adapter, reason}] of what the base did not take",
        ),
    },
)


STATES_REQUEST = inline_serializer(
    "RetrieveStatesRequest",
    {
        "request": serializers.CharField(help_text="the JSON, of a router that looks inside, without texts"),
        PART: serializers.FileField(help_text="safetensors: module path → (t, d_in), a row per token"),
    },
)
ROUTE = inline_serializer("RetrieveJob", {"job": JOB})


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
