"""Liveness and readiness: honest, and answered within seconds whatever is away."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from datetime import timedelta

from celery import current_app
from django.db import DatabaseError, connection
from django.db.models.functions import Now
from django.http import HttpRequest, JsonResponse

from config.metrics import WORKER_SILENCE_S
from registry.models import WorkerHeartbeat
from registry.storage import check_store
from retrieval.services import index_status

logger = logging.getLogger(__name__)

TIMEOUT_S = 2.5


def healthz(request: HttpRequest) -> JsonResponse:
    """The process answers."""
    return JsonResponse({"status": "ok"})


def readyz(request: HttpRequest) -> JsonResponse:
    """Every part that a job or a retrieval needs: 200, or 503 naming what is missing.

    `?exclude=worker&exclude=broker` leaves parts out, for a load balancer that should keep on sending what works
    without them.
    """
    checks = _run(set(CHECKS) - set(request.GET.getlist("exclude")))
    if all(checks.values()):
        return JsonResponse({"status": "ok", "checks": checks})
    return JsonResponse({"status": "not_ready", "checks": checks}, status=503, headers={"Retry-After": "5"})


def _database() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return cursor.fetchone() == (1,)


def _broker() -> bool:
    with current_app.connection_for_write() as broker:
        broker.ensure_connection(max_retries=1, timeout=2)
        # A folder is always connected to; asking for the queue tells whether it is there. A new broker has none yet.
        with suppress(*broker.channel_errors):
            broker.default_channel.queue_declare(current_app.conf.task_default_queue, passive=True)
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
# One thread and one future per part: a check that hangs is waited for once, and not started again meanwhile.
_threads = ThreadPoolExecutor(len(CHECKS), thread_name_prefix="readyz")
_running: dict[str, Future[bool]] = {}


def _run(names: set[str]) -> dict[str, bool]:
    """All checks at the same time; what has no answer after TIMEOUT_S does not pass."""
    for name in names:
        if name not in _running or _running[name].done():
            _running[name] = _threads.submit(_passes, name)
    futures = {name: _running[name] for name in CHECKS if name in names}
    wait(futures.values(), timeout=TIMEOUT_S)
    return {name: future.done() and future.result() for name, future in futures.items()}


def _passes(name: str) -> bool:
    try:
        return bool(CHECKS[name]())
    except Exception as error:  # whatever is wrong with a part, the answer is that it is not ready
        logger.info("Not ready: %s: %s: %s", name, type(error).__name__, error)
        return False
    finally:
        with suppress(DatabaseError):
            connection.close()
