"""`POST /trials/`: which expert does the task of a handful of labelled examples, measured."""

from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from registry.api.parsers import BoundedJSONParser
from registry.api.schema import ERROR, JOB
from registry.describe import job_json
from retrieval.trials import DEFAULT_K, MAX_CANDIDATES, MAX_EXAMPLES, start_trial


def _number(meaning: str) -> serializers.FloatField:
    return serializers.FloatField(allow_null=True, help_text=meaning)


# These document what `retrieval.trials` reads and `workers.handlers.trial` writes.
NEW_TRIAL = inline_serializer(
    "NewTrial",
    {
        "examples": serializers.ListField(
            child=inline_serializer(
                "TrialExample", {"input": serializers.CharField(), "output": serializers.CharField()}
            ),
            min_length=1,
            max_length=MAX_EXAMPLES,
            help_text="of one task; kept for the worker alone, and erased when the job ends",
        ),
        "base_model": serializers.CharField(help_text="whose experts are tried; an id or an alias"),
        "k": serializers.IntegerField(
            required=False, min_value=1, max_value=MAX_CANDIDATES, help_text=f"experts that are tried; {DEFAULT_K}"
        ),
        "merge": serializers.BooleanField(required=False, help_text="search a merge of the best, too; false"),
        "outcomes": serializers.BooleanField(
            required=False, help_text="keep how the experts answered as outcomes of yours, with the inputs; false"
        ),
        "prompt": serializers.CharField(
            required=False, help_text="what the model is asked, with {line} for an input; {line}, a newline and Answer:"
        ),
    },
)
ROW = inline_serializer(
    "TrialRow",
    {
        "kind": serializers.ChoiceField(["base", "base_few_shot", "adapter", "merge"]),
        "adapter": serializers.CharField(allow_null=True),
        "revision": serializers.CharField(allow_null=True),
        "loss": _number("mean −log p per token of the answers; null where it was not measured"),
        "exact_match": _number("share of the examples answered exactly; null where it was not measured"),
        "examples": serializers.IntegerField(help_text="how many the loss is the mean of"),
        "inputs": serializers.ListField(
            child=serializers.JSONField(), required=False, help_text="of a merge: [{adapter, revision, weight}]"
        ),
    },
    many=True,
)
TRIAL = inline_serializer(
    "Trial",
    {
        "job": JOB,
        "result": inline_serializer(
            "TrialResult",
            {
                "base_model": serializers.CharField(),
                "examples": serializers.IntegerField(),
                "ranking": ROW,
                "skipped": serializers.ListField(
                    child=serializers.JSONField(), help_text="[{adapter, reason}]: what the base did not take"
                ),
                "outcomes": serializers.IntegerField(required=False, help_text="how many were kept, where asked for"),
                "merge": serializers.UUIDField(allow_null=True, help_text="the merge with the weights that were found"),
            },
            required=False,
            help_text="not part of this answer: what GET /jobs/{id}/ has as `result` once the job has succeeded",
        ),
    },
)


class TrialList(APIView):
    permission_classes = [IsAuthenticated]
    parser_classes = [BoundedJSONParser]

    @extend_schema(
        request=NEW_TRIAL,
        responses={202: TRIAL, 400: ERROR, 409: ERROR, 429: ERROR, 503: ERROR},
        examples=[
            OpenApiExample(
                "Five dates",
                request_only=True,
                value={
                    "examples": [{"input": "1998-11-06", "output": "6 November 1998"}],
                    "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
                    "k": 10,
                    "merge": False,
                },
            )
        ],
    )
    def post(self, request: Request) -> Response:
        """Try experts on labelled examples: a worker runs the ones that may fit, and ranks them by what it measured."""
        job: Any = start_trial(request.user, request.data)
        return Response({"job": job_json(job)}, status=202, headers={"Location": f"/api/v1/jobs/{job.pk}/"})
