"""`GET /methods/`: routers, prototypes, merges, bundles and compositions, with the schemas of their parameters."""

from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from lora.bundles import BUNDLES
from lora.compositions import describe_types
from lora.merges import FAMILIES, MERGES, PROPERTIES
from lora.prototypes import PROTOTYPES
from retrieval.picker import best_first, routers, survey, usable
from retrieval.survey import FACETS, HAVE

DESCRIPTION = {
    "name": serializers.CharField(),
    "title": serializers.CharField(),
    "summary": serializers.CharField(),
    "source": serializers.CharField(),
    "needs": serializers.ListField(child=serializers.CharField()),
    "params": serializers.DictField(help_text="JSON Schema"),
}
MEASURED = inline_serializer(
    "MethodMeasured",
    {"suite": serializers.CharField(), "top_1": serializers.FloatField(), "mrr": serializers.FloatField()},
    allow_null=True,
    help_text="on the leaderboard's last evaluation",
)
ROUTER_TRAITS = {
    "prototype": serializers.CharField(help_text="the kind whose vectors it searches"),
    "accepts": serializers.ListField(child=serializers.CharField(), help_text="forms of a query"),
    "k": serializers.IntegerField(help_text="matches by default"),
    "when": serializers.CharField(help_text="when to use it"),
    "answers": serializers.ChoiceField(
        ["at_once", "job"], help_text="job: it runs base_model, which must be named, and the answer is a job's result"
    ),
    "job_with": serializers.DictField(
        help_text="parameter → values with which it answers by a job, too; empty for most"
    ),
    "measured": MEASURED,
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
ROUTER = inline_serializer("RouterMethod", DESCRIPTION | ROUTER_TRAITS, many=True)
SURVEYED = inline_serializer(
    "SurveyedMethod",
    {
        "section": serializers.CharField(help_text="of arXiv:2408.07057"),
        "name": serializers.CharField(),
        "facets": inline_serializer("MethodFacets", {facet: serializers.CharField() for facet in FACETS}),
        "needs": serializers.ListField(child=serializers.ChoiceField(list(HAVE))),
        "keeps": serializers.CharField(help_text="what is kept for it, by the expert or for a set of experts"),
        "served": serializers.BooleanField(),
        "routers": serializers.ListField(child=serializers.CharField()),
        "merges": serializers.ListField(child=serializers.CharField()),
        "compositions": serializers.ListField(child=serializers.CharField()),
        "call": serializers.CharField(help_text="how to ask; empty where it is not served"),
        "back": serializers.CharField(help_text="what comes back"),
        "measured": MEASURED,
    },
    many=True,
)
BUNDLED = inline_serializer(
    "BundledRouter",
    DESCRIPTION | {name: ROUTER_TRAITS[name] for name in ("prototype", "when")},
    many=True,
    help_text="what POST /bundles/ takes: routers that decide inside the model",
)
COMPOSED = inline_serializer(
    "CompositionType",
    DESCRIPTION
    | {
        "reads": serializers.ChoiceField(
            ["token", "outputs", "example", "preference", "task"], help_text="what its weights follow from"
        ),
        "place": serializers.ChoiceField(
            ["any", "module", "model"], help_text="a gate for a module or a part of the model, each module, the model"
        ),
        "tensors": serializers.DictField(help_text="of every place: name → shape"),
        "runs": serializers.BooleanField(help_text="whether the archive's composition.py runs it"),
        "when": ROUTER_TRAITS["when"],
    },
    many=True,
    help_text="what POST /compositions/ takes: trained gates over a set of experts",
)
METHODS = inline_serializer(
    "Methods",
    {
        "routers": ROUTER,
        "prototypes": METHOD,
        "merges": MERGE_METHOD,
        "bundles": BUNDLED,
        "compositions": COMPOSED,
        "survey": SURVEYED,
    },
)
HAVE_WORDS = f"comma-separated words of {', '.join(HAVE)}: what needs nothing else, the best measured routers first"


class Methods(APIView):
    @extend_schema(
        parameters=[OpenApiParameter("have", str, description=HAVE_WORDS)],
        responses=METHODS,
    )
    def get(self, request: Request) -> Response:
        """Every method that this server knows."""
        have = request.query_params.get("have")
        at_hand = None if have is None else {word.strip() for word in have.split(",")}
        found = usable(routers(), at_hand)
        return Response(
            {
                "routers": found if at_hand is None else best_first(found),
                "prototypes": usable(PROTOTYPES.describe(), at_hand),
                "merges": usable(MERGES.describe(), at_hand),
                "bundles": usable(BUNDLES.describe(), at_hand),
                "compositions": usable(describe_types(), at_hand),
                "survey": survey(at_hand),
            }
        )
