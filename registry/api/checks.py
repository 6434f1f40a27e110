"""`/checks/`: the verdict on an upload before it is sent, from the beginning of each file."""

import json
from typing import Any

from django.conf import settings
from drf_spectacular.utils import extend_schema
from rest_framework.parsers import MultiPartParser
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from lora.errors import InvalidAdapter
from lora.serving import judge
from registry.adapters import open_adapter
from registry.api.schema import ERROR, OBJECT
from registry.api.upload_parts import FIELDS, form_fields, uploaded_files
from registry.errors import AppError, Invalid
from registry.intake import Described, FileHead, Judged, NewFile, check_described, judge_files
from registry.models import Adapter
from registry.serving import base_modules
from registry.upload_stream import too_large

CHECK_FIELDS = (*(field for field in FIELDS if field != "sha256"), "sizes")
SAMPLES_SHOWN = 3


class Checks(APIView):
    parser_classes = [MultiPartParser]
    permission_classes = [IsAuthenticated]

    @extend_schema(request={"multipart/form-data": OBJECT}, responses={200: OBJECT, 400: ERROR, 401: ERROR})
    def post(self, request: Request) -> Response:
        """What `POST /adapters/` would say to these parts. Nothing is stored.

        Each file may be sent as its beginning only, with its real size in `sizes`, a JSON object {part: bytes}. Of a
        safetensors file that is the header: the first 8 + n bytes, at least 512.
        """
        fields = form_fields(request, CHECK_FIELDS)
        name, sizes = fields.pop("name", ""), _sizes(fields.pop("sizes", "{}"))
        said, judged = Described(**fields), Judged()
        adapter, files = None, {}
        with judged.noting():
            files = _heads(uploaded_files(request), sizes)
        with judged.noting():
            adapter = open_adapter(request.user, name)
        with judged.noting():
            check_described(said)
        if files:
            judge_files(judged, files, said)
        return Response(_verdict(judged, adapter))


def _sizes(text: str) -> dict[str, int]:
    try:
        sizes = json.loads(text)
    except (ValueError, RecursionError):
        sizes = None
    if not isinstance(sizes, dict) or not all(type(size) is int and 0 <= size < 2**63 for size in sizes.values()):
        raise Invalid('sizes is a JSON object, such as {"adapter_model.safetensors": 5184}', detail={"sizes": "bad"})
    return sizes


def _heads(files: dict[str, NewFile], sizes: dict[str, int]) -> dict[str, NewFile]:
    heads = {
        name: FileHead(file.path, file.sha256, max(file.size_bytes, sizes.get(name, 0))) for name, file in files.items()
    }
    if sum(head.size_bytes for head in heads.values()) > settings.MAX_UPLOAD_BYTES:
        raise too_large()
    return heads


def _verdict(judged: Judged, adapter: Adapter | None) -> dict[str, Any]:
    return {
        "usable": not judged.refusals,
        "refusals": [_refusal(error) for error in judged.refusals],
        "adapter": _adapter(adapter) if adapter else None,
        "base_model": judged.base_model,
        "facts": judged.verdict.facts if judged.verdict else None,
        "warnings": judged.warnings,
        "card": {
            "description": "" if judged.card.is_template else judged.card.first_paragraph,
            "license": judged.card.license,
            "tags": judged.card.tags,
        },
        "samples": {"count": len(judged.samples), "first": judged.samples[:SAMPLES_SHOWN]},
        "vllm": _vllm(judged),
    }


def _refusal(error: AppError | InvalidAdapter) -> dict[str, Any]:
    """The body with which an upload would be refused."""
    if isinstance(error, AppError):
        return {"code": error.code, "message": error.message, "detail": error.detail}
    detail = {"problems": [problem.as_json() for problem in error.problems]}
    return {"code": error.code, "message": str(error), "detail": detail}


def _vllm(judged: Judged) -> dict[str, Any] | None:
    """What `vllm serve` would need, and what is in its way."""
    if judged.config is None or judged.verdict is None:
        return None
    verdict = judge(judged.config, judged.verdict.layout, base_modules(judged.base_model))["vllm"]
    return {
        "max_lora_rank": verdict.max_lora_rank,
        "obstacles": list(verdict.reasons),
        "cautions": list(verdict.cautions),
    }


def _adapter(adapter: Adapter) -> dict[str, Any]:
    """What a revision under this name would become part of."""
    return {
        "name": adapter.full_name,
        "exists": adapter.pk is not None,
        "revision": adapter.head.commit if adapter.head else None,
        "visibility": adapter.visibility if adapter.pk else None,
    }
