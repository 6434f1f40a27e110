"""An adapter's revisions, files and archive."""

from typing import Any

from django.http import HttpResponseBase
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from registry.api.pagination import paginated
from registry.api.schema import BINARY, ENGINE, ERROR, OBJECT, REF
from registry.describe import readable_files
from registry.downloads import archive_response, count_download, file_response
from registry.errors import NotFound
from registry.intake import WEIGHTS
from registry.models import Revision
from registry.queries import find_adapter, find_revision, is_owner
from registry.serving import export_response

# 302: the store serves it, at an address that works for some minutes.
FILE = {(200, "application/octet-stream"): BINARY, 302: None}


def _revision_json(revision: Revision) -> dict[str, Any]:
    return {
        "revision": revision.commit,
        "parent": revision.parent.commit if revision.parent else None,
        "created_at": revision.created_at,
        "author": revision.author.get_username() if revision.author else None,
        "message": revision.message,
        "state": revision.state,
    }


def revision_in(request: Request, owner: str, name: str) -> Revision:
    """The revision that the path and `?revision=` name. Raises: NotFound."""
    adapter = find_adapter(request.user, f"{owner}/{name}")
    return find_revision(request.user, adapter, request.query_params.get("revision", "main"))


class RevisionList(APIView):
    @extend_schema(operation_id="adapter_revisions", responses={200: OBJECT, 404: ERROR})
    def get(self, request: Request, owner: str, name: str) -> Response:
        adapter = find_adapter(request.user, f"{owner}/{name}")
        revisions = adapter.revisions.select_related("parent", "author")
        if not is_owner(request.user, adapter):
            revisions = revisions.filter(state=Revision.State.READY)
        return paginated(request, revisions, _revision_json)


class FileDetail(APIView):
    @extend_schema(operation_id="adapter_file", parameters=[REF], responses=FILE)
    def get(self, request: Request, owner: str, name: str, path: str) -> HttpResponseBase:
        revision = revision_in(request, owner, name)
        blob = readable_files(request.user, revision).get(path)
        if blob is None:
            raise NotFound(f"The revision has no file {path!r} that you may read.")
        response = file_response(request, path, blob)
        whole = response.status_code in (200, 302) and request.method == "GET" and "Range" not in request.headers
        if path == WEIGHTS and whole:
            count_download(revision.adapter)
        return response

    @extend_schema(exclude=True)
    def head(self, request: Request, owner: str, name: str, path: str) -> HttpResponseBase:
        return self.get(request, owner, name, path)


class Archive(APIView):
    @extend_schema(
        operation_id="adapter_archive",
        parameters=[REF, ENGINE],
        responses={(200, "application/zip"): BINARY, 400: ERROR, 404: ERROR, 409: ERROR},
    )
    def get(self, request: Request, owner: str, name: str) -> HttpResponseBase:
        """The PEFT folder; with `for`, rewritten so that this engine computes exactly what PEFT does."""
        revision = revision_in(request, owner, name)
        files, engine = readable_files(request.user, revision), request.query_params.get("for")
        if engine is None:
            response = archive_response(f"{owner}--{name}", files)
        else:
            response = export_response(f"{owner}--{name}", files, engine, revision.base_model, str(revision))
        count_download(revision.adapter)
        return response
