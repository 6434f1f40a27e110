"""What `POST /retrieve/` takes and answers, as the schema documents it; `retrieval.request` reads it and
`retrieval.services` writes it.
"""

from typing import Any

from drf_spectacular.utils import inline_serializer
from rest_framework import serializers

from registry.api.schema import JOB
from retrieval.hidden_states import PART
from retrieval.request import FILTERS, MAX_DIM, MAX_K, MAX_TEXTS


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
        "explain": serializers.BooleanField(required=False, help_text="adds evidence, licence, rank and instruction"),
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
        "instruction": serializers.CharField(
            required=False, allow_null=True, help_text="with explain: the line with which all its samples begin"
        ),
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
