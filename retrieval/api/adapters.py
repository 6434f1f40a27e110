"""`/adapters/`: here rather than in the registry, because an adapter's JSON lists its prototypes."""

import json
from typing import Any

from django.db.models import Q, QuerySet
from django.utils.datastructures import MultiValueDict
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.parsers import MultiPartParser
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from lora.errors import InvalidAdapter, Problem
from lora.formats import PICKLE, PICKLE_SUFFIXES
from registry.adapters import edit_adapter, replace_samples, upload_adapter, yank_adapter
from registry.api.files import revision_in
from registry.api.pagination import paginated
from registry.api.schema import ERROR, OBJECT, REF
from registry.describe import adapter_json, job_json
from registry.errors import Invalid, InvalidSamples
from registry.intake import CONFIG, FILES, WEIGHTS, Described, NewFile
from registry.models import Adapter, Revision
from registry.queries import Caller, find_adapter, find_revision, visible_adapters
from registry.samples import MAX_BYTES as MAX_SAMPLES_BYTES
from registry.samples import PATH as SAMPLES

FIELDS = ("name", "visibility", "base_model", "description", "license", "tags", "sha256")
ORDERINGS = ("name", "created_at", "updated_at", "downloads")
EDITABLE = {"description": str, "license": str, "visibility": str, "tags": list, "samples_public": bool}


def full_json(user: Caller, adapter: Adapter, revision: Revision) -> dict[str, Any]:
    """The adapter at a revision, prototypes included."""
    prototypes = [
        {"kind": item.kind, "space": item.space_id, "count": item.count, "dim": item.dim}
        for item in revision.prototypes.order_by("kind", "space_id").defer("vectors")
    ]
    return adapter_json(user, adapter, revision) | {"prototypes": prototypes}


def _list_json(user: Caller, adapter: Adapter) -> dict[str, Any]:
    """As `full_json`, without the per-module facts: a page of those would be megabytes."""
    body = full_json(user, adapter, find_revision(user, adapter))
    facts = {name: value for name, value in body["facts"].items() if name != "modules"}
    return body | {"facts": facts}


def filter_adapters(user: Caller, query: Any) -> QuerySet[Adapter]:
    """The visible adapters that match a list's query parameters. Raises: Invalid for an unknown ordering or state."""
    rows = visible_adapters(user).select_related("namespace", "head")
    for word in query.get("search", "").split()[:10]:
        found = Q(full_name__icontains=word) | Q(description__icontains=word) | Q(base_model__icontains=word)
        rows = rows.filter(found | Q(tags__icontains=word))
    for tag in query.getlist("tag"):
        rows = rows.filter(tags__icontains=json.dumps(tag))
    for name, column in (("base_model", "base_model"), ("license", "license"), ("owner", "namespace__name")):
        if query.get(name):
            rows = rows.filter(**{column: query[name]})
    if state := query.get("state"):
        rows = _in_state(rows, state)
    ordering = query.get("ordering") or "name"
    if ordering.removeprefix("-") not in ORDERINGS:
        raise Invalid(
            f"ordering is one of {', '.join(ORDERINGS)}, or -… for descending.", detail={"ordering": "unknown"}
        )
    return rows.order_by(ordering.replace("name", "full_name"), "pk")


def _in_state(rows: QuerySet[Adapter], state: str) -> QuerySet[Adapter]:
    if state == "ready":
        return rows.filter(head__isnull=False)
    if state not in ("checking", "rejected"):
        raise Invalid("state is checking, ready or rejected.", detail={"state": "unknown"})
    return rows.filter(head=None, revisions__state=state).distinct()


LIST_PARAMETERS = [
    OpenApiParameter(name, str)
    for name in ("search", "base_model", "tag", "license", "owner", "state", "ordering", "page", "page_size")
]


class AdapterList(APIView):
    parser_classes = [MultiPartParser]

    @extend_schema(operation_id="adapters_list", parameters=LIST_PARAMETERS, responses=OBJECT)
    def get(self, request: Request) -> Response:
        rows = filter_adapters(request.user, request.query_params)
        return paginated(request, rows, lambda adapter: _list_json(request.user, adapter))

    @extend_schema(
        request={"multipart/form-data": OBJECT},
        responses={200: OBJECT, 202: OBJECT, 400: ERROR, 413: ERROR, 422: ERROR},
    )
    def post(self, request: Request) -> Response:
        """Upload an adapter: the PEFT files and what to say about them."""
        files = _uploaded_files(request)
        fields = _fields(request)
        name = fields.pop("name", None)
        if not name:
            raise Invalid("The part 'name' is missing: owner/name.", detail={"name": "missing"})
        revision, job = upload_adapter(request.user, name, files, Described(**fields))
        body = {
            "adapter": full_json(
                request.user, revision.adapter, find_revision(request.user, revision.adapter, revision.commit)
            ),
            "job": job_json(job) if job else None,
        }
        if job is None:
            return Response(body)
        return Response(body, status=202, headers={"Location": f"/api/v1/jobs/{job.pk}/"})


def _uploaded_files(request: Request) -> dict[str, NewFile]:
    for part in request.FILES:
        if part.lower().endswith(PICKLE_SUFFIXES):
            raise InvalidAdapter([Problem("pickle", part, PICKLE)])
    _refuse_unknown(request.FILES, FILES, "file")
    missing = [name for name in (CONFIG, WEIGHTS) if name not in request.FILES]
    if missing:
        hint = " It was sent as text: send it as a file." if missing[0] in request.data else ""
        raise Invalid(f"The file {missing[0]} is missing.{hint}", detail=dict.fromkeys(missing, "missing"))
    return {name: NewFile(file.path, file.sha256) for name, file in request.FILES.items()}


def _fields(request: Request) -> dict[str, Any]:
    _refuse_unknown(request.POST, FIELDS, "field", repeatable="tags")
    tags = {"tags": [tag for tag in request.POST.getlist("tags") if tag]} if "tags" in request.POST else {}
    return request.POST.dict() | tags


def _refuse_unknown(parts: MultiValueDict, known: tuple[str, ...], what: str, repeatable: str = "") -> None:
    for part, values in parts.lists():
        shown = part[:100]
        if part not in known:
            message = f"The {what} part {shown!r} is not known. Known: {', '.join(known)}."
            raise Invalid(message, detail={shown: "unknown part"})
        if len(values) > 1 and part != repeatable:
            raise Invalid(f"The part {part!r} was sent more than once.", detail={part: "repeated"})


class AdapterDetail(APIView):
    @extend_schema(operation_id="adapters_retrieve", parameters=[REF], responses={200: OBJECT, 404: ERROR})
    def get(self, request: Request, owner: str, name: str) -> Response:
        revision = revision_in(request, owner, name)
        return Response(full_json(request.user, revision.adapter, revision))

    @extend_schema(request=OBJECT, responses={200: OBJECT, 400: ERROR, 403: ERROR})
    def patch(self, request: Request, owner: str, name: str) -> Response:
        """Change description, license, tags or visibility, or hide the texts of the samples (`samples_public`)."""
        adapter = find_adapter(request.user, f"{owner}/{name}", for_write=True)
        if not isinstance(request.data, dict) or set(request.data) - set(EDITABLE):
            raise Invalid(f"What can be changed: {', '.join(EDITABLE)}.", detail={"fields": sorted(EDITABLE)})
        for field, value in request.data.items():
            strings = value if isinstance(value, list) else []
            if not isinstance(value, EDITABLE[field]) or not all(isinstance(item, str) for item in strings):
                raise Invalid(f"{field} has the wrong type.", detail={field: "wrong type"})
        edit_adapter(adapter, Described(**request.data))
        return Response(full_json(request.user, adapter, find_revision(request.user, adapter)))

    @extend_schema(request=None, responses={204: None})
    def delete(self, request: Request, owner: str, name: str) -> Response:
        """Yank: gone from search, retrieval and merging; the owner still downloads revisions."""
        yank_adapter(find_adapter(request.user, f"{owner}/{name}", for_write=True))
        return Response(status=204)


class AdapterSamples(APIView):
    parser_classes = [MultiPartParser]
    permission_classes = [IsAuthenticated]

    @extend_schema(request={"multipart/form-data": OBJECT}, responses={202: OBJECT, 422: ERROR})
    def post(self, request: Request, owner: str, name: str) -> Response:
        """Replace the samples: a new revision that shares the weights."""
        adapter = find_adapter(request.user, f"{owner}/{name}", for_write=True)
        _refuse_unknown(request.FILES, (SAMPLES,), "file")
        _refuse_unknown(request.POST, (), "field")
        file = request.FILES.get(SAMPLES)
        if file is None:
            raise Invalid(f"Send the file part {SAMPLES}.", detail={SAMPLES: "missing"})
        if file.size > MAX_SAMPLES_BYTES:
            raise InvalidSamples(f"{SAMPLES} has {file.size} bytes; at most {MAX_SAMPLES_BYTES}.")
        revision, job = replace_samples(request.user, adapter, file.path.read_bytes())
        found = find_revision(request.user, adapter, revision.commit)
        body = {"adapter": full_json(request.user, adapter, found), "job": job_json(job)}
        return Response(body, status=202, headers={"Location": f"/api/v1/jobs/{job.pk}/"})
