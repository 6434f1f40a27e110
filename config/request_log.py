"""One line and one measurement per request, under an id that the answer, the jobs and all other lines carry."""

import logging
import re
import time
import uuid
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils.functional import SimpleLazyObject
from prometheus_client import Counter, Histogram
from structlog.contextvars import bind_contextvars, clear_contextvars

from config.proxies import client_address

logger = logging.getLogger(__name__)

HEADER = "X-Request-ID"
SENT_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# Asked every few seconds by machines.
PROBES = ("/healthz", "/readyz", "/metrics")
MAX_PATH = 300

REQUESTS = Counter("loradex_http_requests_total", "Requests answered.", ["method", "route", "status"])
SECONDS = Histogram(
    "loradex_http_request_seconds",
    "Seconds until an answer's first byte; the body of an upload included, of a download not.",
    ["method", "route"],
    buckets=(0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 20, 60, 300),
)


class RequestLogMiddleware:
    """Outermost, so that it sees every answer. Texts of requests are never logged, nor their query strings."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        started = time.perf_counter()
        request.id = _request_id(request)
        # Not cleared at the end: this thread still sends the body, and what it logs then belongs to the request.
        clear_contextvars()
        bind_contextvars(request_id=request.id)
        response = self.get_response(request)
        response[HEADER] = request.id
        self._tell(request, response, time.perf_counter() - started)
        return response

    def _tell(self, request: HttpRequest, response: HttpResponse, seconds: float) -> None:
        method = request.method if request.method in METHODS else "other"
        route = _route(request)
        REQUESTS.labels(method, route, str(response.status_code)).inc()
        SECONDS.labels(method, route).observe(seconds)
        extra = {
            "method": method,
            "route": route,
            "path": request.path[:MAX_PATH],
            "status": response.status_code,
            "ms": round(seconds * 1000, 1),
            "user_id": _user_id(request),
            "remote": client_address(request.META),
        }
        logger.log(_level(request, response), "request", extra=extra)


def _request_id(request: HttpRequest) -> str:
    """The id that the client or a proxy gave, where it looks like one, or a new one."""
    sent = request.headers.get(HEADER, "")
    return sent if SENT_ID.fullmatch(sent) else uuid.uuid4().hex


def _route(request: HttpRequest) -> str:
    """The path's template: names in it are not filled in, so that there are few of them."""
    if request.resolver_match is not None:
        return f"/{request.resolver_match.route}"
    return "static" if request.path.startswith(settings.STATIC_URL) else "none"


def _user_id(request: HttpRequest) -> Any:
    """Whom the request was found to come from; asking only now would cost a query."""
    user = vars(request).get("user")
    if isinstance(user, SimpleLazyObject):
        user = vars(request).get("_cached_user")
    return user.pk if user is not None else None


def _level(request: HttpRequest, response: HttpResponse) -> int:
    if response.status_code >= 500:
        return logging.WARNING
    quiet = request.path in PROBES or request.path.startswith(settings.STATIC_URL)
    return logging.DEBUG if quiet else logging.INFO
