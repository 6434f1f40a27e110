"""Liveness and readiness."""

from collections.abc import Callable
from datetime import timedelta

from celery import current_app
from django.db import connection
from django.db.models.functions import Now
from django.http import HttpRequest, JsonResponse

from registry.models import WorkerHeartbeat
from registry.storage import check_store
from retrieval.services import index_status

WORKER_SILENCE_S = 15


def healthz(request: HttpRequest) -> JsonResponse:
    """The process answers."""
    return JsonResponse({"status": "ok"})


def _database() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return cursor.fetchone() == (1,)


def _broker() -> bool:
    with current_app.connection_for_write() as broker:
        broker.ensure_connection(max_retries=1, timeout=2)
        return True


def _worker() -> bool:
    return WorkerHeartbeat.objects.filter(seen_at__gt=Now() - timedelta(seconds=WORKER_SILENCE_S)).exists()


def _index() -> bool:
    return bool(index_status()["ok"])


CHECKS: dict[str, Callable[[], bool]] = {
    "database": _database,
    "store": check_store,
    "broker": _broker,
    "index": _index,
    "worker": _worker,
}


def readyz(request: HttpRequest) -> JsonResponse:
    """Every part that a job or a retrieval needs: 200, or 503 naming what is missing."""
    checks = {name: _passes(check) for name, check in CHECKS.items()}
    if all(checks.values()):
        return JsonResponse({"status": "ok", "checks": checks})
    return JsonResponse({"status": "not_ready", "checks": checks}, status=503, headers={"Retry-After": "5"})


def _passes(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except Exception:  # whatever is wrong with a part, the answer is that it is not ready
        return False
