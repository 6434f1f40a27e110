"""`/adapters/`: here rather than in the registry, because an adapter's JSON lists its prototypes."""

from typing import Any

from django.db.models import Prefetch
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.parsers import MultiPartParser
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from registry.adapters import edit_adapter, replace_samples, upload_adapter, yank_adapter
from registry.api.files import revision_in
from registry.api.pagination import Pages
from registry.api.schema import ERROR, OBJECT, REF
from registry.api.upload_parts import FIELDS, form_fields, refuse_unknown, uploaded_files
from registry.describe import adapter_json, adapters_json, job_json
from registry.errors import Invalid, InvalidSamples
from registry.intake import Described
from registry.models import Adapter, Revision
from registry.queries import Caller, find_adapter, find_revision, shown_revisions
from registry.samples import MAX_BYTES as MAX_SAMPLES_BYTES
from registry.samples import PATH as SAMPLES
from registry.search import COLUMNS, Found, parse_search
from retrieval.models import Prototype
from retrieval.prototypes import listed

EDITABLE = {"description": str, "license": str, "visibility": str, "tags": list, "samples_public": bool}


def full_json(user: Caller, adapter: Adapter, revision: Revision) -> dict[str, Any]:
    """The adapter at a revision, prototypes included."""
    prototypes = revision.prototypes.order_by("kind", "space_id").defer("vectors")
    return adapter_json(user, adapter, revision) | {"prototypes": listed(revision, prototypes)}


def _list_json(user: Caller, adapters: list[Adapter]) -> list[dict[str, Any]]:
    """As `full_json` for each, without the facts of modules."""
    prototypes = Prefetch("prototypes", Prototype.objects.order_by("kind", "space_id").defer("vectors"))
    revisions = shown_revisions(adapters).select_related("delta_sketch").defer("modules", "delta_sketch__vector")
    revisions = revisions.prefetch_related("files__blob", prototypes)
    by_adapter = {revision.adapter_id: revision for revision in revisions}
    shown = [(adapter, by_adapter[adapter.pk]) for adapter in adapters if adapter.pk in by_adapter]
    return [
        described | {"prototypes": listed(revision, revision.prototypes.all())}
        for described, (_, revision) in zip(adapters_json(user, shown), shown, strict=True)
    ]


LIST_PARAMETERS = [OpenApiParameter(name, str) for name in ("search", *COLUMNS, "ordering", "page", "page_size")]


class AdapterList(APIView):
    parser_classes = [MultiPartParser]

    @extend_schema(operation_id="adapters_list", parameters=LIST_PARAMETERS, responses=OBJECT)
    def get(self, request: Request) -> Response:
        """Adapters that have every word of `search` and, for each filter, one of its values."""
        pages = Pages()
        found = pages.paginate_queryset(Found(request.user, parse_search(request.query_params)), request)
        return pages.get_paginated_response(_list_json(request.user, found))

    @extend_schema(
        request={"multipart/form-data": OBJECT},
        responses={200: OBJECT, 202: OBJECT, 400: ERROR, 413: ERROR, 422: ERROR},
    )
    def post(self, request: Request) -> Response:
        """Upload an adapter: the PEFT files and what to say about them."""
        files = uploaded_files(request)
        fields = form_fields(request, FIELDS)
        name = fields.pop("name", "")
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
        refuse_unknown(request.FILES, (SAMPLES,), "file")
        refuse_unknown(request.POST, (), "field")
        file = request.FILES.get(SAMPLES)
        if file is None:
            raise Invalid(f"Send the file part {SAMPLES}.", detail={SAMPLES: "missing"})
        if file.size > MAX_SAMPLES_BYTES:
            raise InvalidSamples(f"{SAMPLES} has {file.size} bytes; at most {MAX_SAMPLES_BYTES}.")
        revision, job = replace_samples(request.user, adapter, file.path.read_bytes())
        found = find_revision(request.user, adapter, revision.commit)
        body = {"adapter": full_json(request.user, adapter, found), "job": job_json(job)}
        return Response(body, status=202, headers={"Location": f"/api/v1/jobs/{job.pk}/"})
