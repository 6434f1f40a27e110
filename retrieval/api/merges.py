"""`/merges/`: here rather than in the registry, because inputs may come from a retrieval."""

from functools import partial
from typing import Any

from django.http import HttpResponse, HttpResponseBase
from django.utils.http import content_disposition_header
from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.permissions import AllowAny, IsAuthenticated
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from lora.recipe_documents import FORMAT, document_of
from registry import plain_yaml
from registry.api.pagination import paginated
from registry.api.parsers import BoundedJSONParser, YAMLParser
from registry.api.schema import BINARY, ENGINE, ERROR, OBJECT
from registry.describe import job_json, merge_json
from registry.downloads import archive_response
from registry.errors import Conflict, Invalid
from registry.merge_preview import preview_merge
from registry.merges import merged_files, request_merge
from registry.models import Job, Merge
from registry.queries import Caller, find_merge
from registry.recipe_requests import parse_recipe
from registry.recipes import recipe_of
from registry.serving import export_response
from retrieval.services import retrieve


def resolve_inputs(user: Caller, inputs: Any) -> Any:
    """`{"retrieve": {…}}` as the matches and weights of that retrieval; a list as it is.

    Raises: Invalid, UnknownRouter, InvalidParams, NotReady.
    """
    if not isinstance(inputs, dict):
        return inputs
    if set(inputs) != {"retrieve"}:
        raise Invalid('inputs is a list, or {"retrieve": {…}}.', detail={"inputs": "unknown form"})
    results = retrieve(user, inputs["retrieve"])["results"]
    if len(results) != 1 or results[0]["abstained"]:
        raise Invalid("The retrieval must give matches for exactly one query.", detail={"inputs": "no matches"})
    return [{name: match[name] for name in ("adapter", "revision", "weight")} for match in results[0]["matches"]]


# These document the request, which `registry.recipe_requests` reads.
OUTPUT = inline_serializer(
    "MergeOutput",
    {
        "name": serializers.CharField(required=False, help_text="owner/name; without it there is an archive only"),
        "visibility": serializers.ChoiceField(["public", "private"], required=False),
        "rank": serializers.DictField(
            required=False, help_text="{mode: max_input | exact | fixed | energy, value?: a rank, or a fraction}"
        ),
        "dtype": serializers.ChoiceField(["float32", "bfloat16", "float16"], required=False, allow_null=True),
    },
    required=False,
)
RECIPE = inline_serializer(
    "Recipe",
    {
        "format": serializers.ChoiceField([FORMAT], required=False),
        "method": serializers.CharField(help_text="see GET /methods/"),
        "inputs": serializers.ListField(
            child=serializers.JSONField(),
            help_text="of {adapter, revision?, weight?} or {recipe: {method, inputs, params?}, weight?}; "
            "or {retrieve: …} instead of a list",
        ),
        "params": serializers.DictField(required=False),
        "base_model": serializers.CharField(required=False, help_text="refused where the inputs are of another one"),
        "output": OUTPUT,
    },
)
# These document the answer; `registry.merge_preview` writes it.
PROBLEM = inline_serializer(
    "MergeProblem",
    {
        "where": serializers.CharField(help_text="inputs[1].weight, params.density, output.name, …"),
        "code": serializers.CharField(),
        "message": serializers.CharField(),
    },
    many=True,
)


def _matrix(meaning: str) -> serializers.ListField:
    rows = serializers.ListField(child=serializers.FloatField(allow_null=True))
    return serializers.ListField(child=rows, allow_null=True, help_text=f"(n, n): {meaning}")


def _list(meaning: str) -> serializers.ListField:
    return serializers.ListField(child=serializers.FloatField(), allow_null=True, help_text=meaning)


MERGE_PREVIEW = inline_serializer(
    "MergePreview",
    {
        "mergeable": serializers.BooleanField(help_text="no problems"),
        "recipe": serializers.JSONField(allow_null=True, help_text="the request, translated where it was mergekit's"),
        "problems": PROBLEM,
        "warnings": serializers.ListField(child=serializers.JSONField(), help_text="[{code, message}]"),
        "suggestion": serializers.DictField(
            allow_null=True, help_text="{method, title, message}: what would keep more of the inputs, or null"
        ),
        "inputs": serializers.ListField(
            child=serializers.JSONField(),
            help_text="per input {adapter, revision, weight as applied, base_model, visibility, license, rank, dtype}, "
            "or {recipe, weight as applied, base_model, rank}; null where it is refused",
        ),
        "norms": serializers.ListField(
            child=serializers.FloatField(allow_null=True), help_text="‖ΔW‖ of every input, without its weight"
        ),
        "rank": serializers.IntegerField(allow_null=True, help_text="of the file; null where the result decides"),
        "measured": serializers.ListField(
            child=serializers.JSONField(),
            allow_null=True,
            help_text="[{adapter, revision, weight}]: what the following is about, in this order: the inputs, or all "
            "adapters of a recipe of recipes. Null where nothing could be measured, as are they",
        ),
        "cosine": _matrix("of the whole ΔW"),
        "overlap": _matrix("‖UᵢᵀUⱼ‖²/min(r) of the column spaces, what they write to: 0 none, 1 one within the other"),
        "overlap_in": _matrix("the same of the row spaces, what they read from"),
        "overlap_chance": serializers.DictField(
            allow_null=True, help_text="{out, in}: per adapter r/d, what random subspaces share; of a pair the larger"
        ),
        "sign_conflict": _matrix(
            "share of differing signs in sampled rows; 0.5 is unrelated, null is nothing in common"
        ),
        "stable_rank": _list("Σσ²/σ₁² per adapter"),
        "contributions": _list("per adapter its signed share of the weighted sum; null where that is zero"),
        "dominates": serializers.DictField(
            allow_null=True, help_text="{input, ratio}: a position at least twice as strong as any other, or null"
        ),
        "energy": serializers.ListField(
            child=serializers.JSONField(),
            allow_null=True,
            help_text="[{rank, kept}]: share of ‖ΔW‖² of the weighted sum that a file of this rank keeps",
        ),
        "job": serializers.JSONField(allow_null=True, help_text="that measures large files, or did; else null"),
        "license": serializers.CharField(
            allow_null=True, help_text="that covers the inputs' licences; null where none is known to"
        ),
    },
)


class MergeList(APIView):
    permission_classes = [IsAuthenticated]
    parser_classes = [BoundedJSONParser, YAMLParser]

    @extend_schema(operation_id="merges_list", responses=OBJECT)
    def get(self, request: Request) -> Response:
        rows = Merge.objects.filter(owner_id=request.user.pk).select_related("artefact", "revision__adapter")
        return paginated(request, rows, merge_json)

    @extend_schema(request=RECIPE, responses={200: OBJECT, 202: OBJECT, 400: ERROR, 422: ERROR})
    def post(self, request: Request) -> Response:
        """Merge experts into one adapter. The recipe is JSON or YAML; a subset of mergekit's keys is understood."""
        recipe = parse_recipe(request.user, request.data, partial(resolve_inputs, request.user))
        merge, job = request_merge(request.user, recipe)
        status = 200 if job.status == Job.Status.SUCCEEDED else 202
        return Response(
            {"merge": merge_json(merge), "job": job_json(job)},
            status=status,
            headers={"Location": f"/api/v1/jobs/{job.pk}/"},
        )


class MergePreview(APIView):
    # Looking at a recipe is reading: whoever may see the inputs may try them.
    permission_classes = [AllowAny]
    parser_classes = [BoundedJSONParser, YAMLParser]

    @extend_schema(request=RECIPE, responses={200: MERGE_PREVIEW, 202: MERGE_PREVIEW, 503: ERROR})
    def post(self, request: Request) -> Response:
        """Check a recipe as `POST /merges/` does, without storing anything: what stands in its way, and where.

        What the adapters do to each other is measured at once, or where they are large by a job, which is answered with
        202; the same request again gives what it measured.
        """
        preview = preview_merge(request.user, request.data, partial(resolve_inputs, request.user))
        is_open = preview["job"] and preview["job"]["status"] not in Job.FINAL
        return Response(preview, status=202 if is_open else 200)


class MergeDetail(APIView):
    @extend_schema(operation_id="merges_retrieve", responses={200: OBJECT, 404: ERROR})
    def get(self, request: Request, merge_id: Any) -> Response:
        return Response(merge_json(find_merge(request.user, merge_id)))


class MergeRecipe(APIView):
    @extend_schema(
        parameters=[OpenApiParameter("format", str, enum=["yaml", "json"])],
        responses={(200, "application/yaml"): RECIPE, (200, "application/json"): RECIPE, 404: ERROR},
    )
    def get(self, request: Request, merge_id: Any) -> HttpResponseBase:
        """The recipe as a document that makes the same merge, with every revision and default spelled out."""
        merge = find_merge(request.user, merge_id)
        document = document_of(recipe_of(merge).as_json())
        asked = request.query_params.get("format", "yaml")
        if asked == "json":
            return Response(document)
        if asked != "yaml":
            raise Invalid("format is yaml or json.", detail={"format": "unknown"})
        name = content_disposition_header(True, f"{merge.filename}.yaml")
        return HttpResponse(
            plain_yaml.dump(document), content_type="application/yaml", headers={"Content-Disposition": name}
        )

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        """JSON, which refusals always are; `?format=` chooses in `get`."""
        return JSONRenderer(), JSONRenderer.media_type


class MergeArchive(APIView):
    @extend_schema(parameters=[ENGINE], responses={(200, "application/zip"): BINARY, 400: ERROR, 409: ERROR})
    def get(self, request: Request, merge_id: Any) -> HttpResponseBase:
        merge = find_merge(request.user, merge_id)
        if merge.artefact is None:
            raise Conflict("The merge has not finished. Its job says how far it is.")
        files, engine = merged_files(merge), request.query_params.get("for")
        if engine is None:
            return archive_response(merge.filename, files)
        return export_response(merge.filename, files, engine, merge.base_model, f"merge {merge.pk}")
