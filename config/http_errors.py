"""Exceptions to HTTP: `{code, message, detail}` on every API path. The only place that does this."""

import logging
import sys
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.db import DataError, InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.template import loader
from rest_framework import exceptions as drf
from rest_framework.response import Response
from rest_framework.views import exception_handler as drf_handler
from rest_framework.views import set_rollback

from lora.errors import InvalidAdapter, LoraError
from registry.errors import AppError, Invalid, NotReady

logger = logging.getLogger(__name__)

API_PREFIX = "/api/"
INTERNAL = "Something went wrong on the server. It has been logged; try again, or tell the operator the request id {}."
ANONYMOUS = "Log in, or send a token as `Authorization: Bearer hf_…`. Make one under /settings/tokens/."
MALFORMED = "The request is malformed, or names a host that this site does not answer to (ALLOWED_HOSTS)."
DATABASE_AWAY = (OperationalError, InterfaceError)
AWAY = NotReady("The database is away. Try again in a few seconds.")
# What DRF raises, by HTTP status; anything that is not listed keeps DRF's own text under "invalid".
CODE_BY_STATUS = {
    400: "invalid",
    401: "not_authenticated",
    403: "permission_denied",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    413: "too_large",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
    429: "throttled",
}


def body(code: str, message: str, detail: Any = None) -> dict[str, Any]:
    return {"code": code, "message": message, "detail": detail or {}}


def internal(request: HttpRequest) -> dict[str, Any]:
    """The body of a 500: the id under which the log has the cause."""
    request_id = getattr(request, "id", "")
    return body("internal", INTERNAL.format(request_id), {"request_id": request_id})


def server_error(request: HttpRequest) -> HttpResponse:
    """Django's handler500: a page that asks nothing of the database, which may be what is broken."""
    text = loader.get_template("500.html").render({"request_id": getattr(request, "id", "")})
    if isinstance(sys.exc_info()[1], DATABASE_AWAY):
        return HttpResponse(text, status=503, headers=AWAY.headers)
    return HttpResponse(text, status=500)


def _lora_error(error: LoraError) -> tuple[int, dict[str, Any]]:
    if isinstance(error, InvalidAdapter):
        return 422, {"problems": [problem.as_json() for problem in error.problems]}
    where = {"where": error.where} if error.where else {}
    known = getattr(error, "known", None)
    return 400, where | ({"known": known} if known is not None else {})


def to_response(error: Exception, context: dict[str, Any]) -> Response:
    """DRF's EXCEPTION_HANDLER."""
    if isinstance(error, DATABASE_AWAY):
        logger.error("The database is away: %s", error)
        error = AWAY
    if isinstance(error, DataError | UnicodeEncodeError):
        # NUL, which SQLite takes and PostgreSQL does not; lone surrogates, which neither takes.
        logger.warning("The database refused a value: %s", error)
        error = Invalid("A value is too long, or has a character that cannot be stored, such as NUL.")
    if isinstance(error, AppError):
        set_rollback()
        return Response(body(error.code, error.message, error.detail), status=error.http_status, headers=error.headers)
    if isinstance(error, LoraError):
        set_rollback()
        status, detail = _lora_error(error)
        return Response(body(error.code, str(error), detail), status=status)
    if isinstance(error, RequestDataTooBig):
        error = drf.APIException(
            f"The request is too large: beside files, at most {settings.DATA_UPLOAD_MAX_MEMORY_SIZE:,} bytes."
        )
        error.status_code = 413
    response = drf_handler(error, context)
    if response is None:
        request = context["request"]
        logger.exception("Unexpected error in %s %s", request.method, request.path, exc_info=error)
        set_rollback()
        return Response(internal(request), status=500)
    response.data = body(*_drf_text(error, response, context))
    return response


def _drf_text(error: Exception, response: Response, context: dict[str, Any]) -> tuple[str, str, Any]:
    code = CODE_BY_STATUS.get(response.status_code, "invalid")
    if isinstance(error, drf.ValidationError):
        fields = response.data if isinstance(response.data, dict) else {"request": response.data}
        name, first = next(iter(fields.items()))
        text = first[0] if isinstance(first, list) and first else first
        return code, f"{name}: {text}" if name != "non_field_errors" else str(text), fields
    if isinstance(error, Http404):
        return code, "There is nothing here that you may see. Check the path and your token.", {}
    if isinstance(error, PermissionDenied):
        return code, "You are not allowed to do this.", {}
    if isinstance(error, drf.PermissionDenied) and str(error.detail) == str(error.default_detail):
        return code, "Your account may not do this. If it should, ask the operator of this site.", {}
    if isinstance(error, drf.NotAuthenticated):
        return code, ANONYMOUS, {}
    if isinstance(error, drf.UnsupportedMediaType):
        taken = " or ".join(parser.media_type for parser in context["view"].parser_classes)
        return code, f"{error.detail} Send {taken}.", {}
    detail = response.data.get("detail", "") if isinstance(response.data, dict) else ""
    return code, str(detail), {}


class JsonErrorsMiddleware:
    """On API paths, turns the HTML errors of Django itself (no such URL, CSRF, crash) into the contract's JSON."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        is_html = response.get("Content-Type", "").startswith("text/html")
        if request.path.startswith(API_PREFIX) and response.status_code >= 400 and is_html:
            return self._as_json(request, response.status_code)
        return response

    def _as_json(self, request: HttpRequest, status: int) -> JsonResponse:
        if status == AWAY.http_status:
            return JsonResponse(body(AWAY.code, AWAY.message), status=status, headers=AWAY.headers)
        if status >= 500:
            return JsonResponse(internal(request), status=status)
        if status == 400:
            return JsonResponse(body("invalid", MALFORMED), status=status)
        message = f"{request.method} {request.path} is not part of the API."
        if status == 404 and not request.path.endswith("/"):
            message += " API paths end in a slash."
        return JsonResponse(body(CODE_BY_STATUS.get(status, "invalid"), message), status=status)
