"""`/metrics` for Prometheus: what the processes counted, and what database and index say at the moment."""

import logging
from collections.abc import Iterator
from datetime import timedelta
from itertools import product

from django.conf import settings
from django.db import DatabaseError, connection
from django.db.models import Count
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse, JsonResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from rest_framework.exceptions import AuthenticationFailed

from config.http_errors import body
from config.proxies import is_loopback
from registry.metrics import counted
from registry.models import Job, WorkerHeartbeat
from registry.tokens import BearerAuthentication
from retrieval.live import served_status
from workers.runner import KINDS

logger = logging.getLogger(__name__)

WORKER_SILENCE_S = 15
OPEN = (Job.Status.QUEUED, Job.Status.RUNNING)
FORWARDED = ("HTTP_FORWARDED", "HTTP_VIA", "HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO", "HTTP_X_FORWARDED_HOST")


def metrics(request: HttpRequest) -> HttpResponse:
    """For whoever is on this machine and does not come through a proxy, and for staff's tokens."""
    if not _may_read(request):
        text = "Metrics are for the operator: ask from the machine itself, or with the token of a staff user."
        return JsonResponse(body("not_authenticated", text), status=401, headers={"WWW-Authenticate": "Bearer"})
    return HttpResponse(generate_latest(everything()), content_type=CONTENT_TYPE_LATEST)


def _may_read(request: HttpRequest) -> bool:
    is_direct = not any(name in request.META for name in FORWARDED)
    if is_direct and is_loopback(request.META.get("REMOTE_ADDR", "")):
        return True
    try:
        user, _ = BearerAuthentication().authenticate(request) or (None, None)
    except AuthenticationFailed:
        return False
    return user is not None and user.is_staff


def everything() -> CollectorRegistry:
    found = counted()
    found.register(StateCollector())
    return found


def serve_metrics_port() -> None:
    """Answer on METRICS_PORT, too, where one is set: to everybody who reaches it, so not to the world."""
    if not settings.METRICS_PORT:
        return
    try:
        registry = CollectorRegistry()
        registry.register(_AtScrape())
        start_http_server(settings.METRICS_PORT, settings.HOST, registry)
    except OSError:
        logger.warning("METRICS_PORT %d is taken; this process answers no metrics on it", settings.METRICS_PORT)


class _AtScrape(Collector):
    """Everything, collected anew each time by a thread whose database connection ends with the scrape."""

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        try:
            yield from everything().collect()
        finally:
            connection.close()


class StateCollector(Collector):
    """Gauges that nobody has to count. A handful of indexed queries, whatever the number of adapters."""

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        reachable = 1
        try:
            yield from [*_jobs(), *_workers(), *_index()]
        except DatabaseError:
            logger.warning("No metrics from the database", exc_info=True)
            reachable = 0
        yield GaugeMetricFamily("loradex_database_up", "Whether the database answered this scrape.", reachable)


def _jobs() -> Iterator[Metric]:
    counts = dict.fromkeys(product(KINDS, OPEN), 0)
    rows = Job.objects.filter(status__in=OPEN).order_by().values_list("kind", "status").annotate(Count("pk"))
    counts |= {(kind, status): count for kind, status, count in rows}
    waiting = GaugeMetricFamily("loradex_jobs", "Jobs that have not ended.", labels=["kind", "status"])
    for (kind, status), count in counts.items():
        waiting.add_metric([kind, str(status)], count)
    yield waiting
    queued = Job.objects.filter(status=Job.Status.QUEUED).order_by("queued_at").annotate(now=Now())
    since, now = queued.values_list("queued_at", "now").first() or (None, None)
    age = (now - since).total_seconds() if since else 0
    yield GaugeMetricFamily("loradex_oldest_queued_job_seconds", "How long the oldest queued job has waited.", age)


def _workers() -> Iterator[Metric]:
    heard = WorkerHeartbeat.objects.filter(seen_at__gt=Now() - timedelta(seconds=WORKER_SILENCE_S)).count()
    yield GaugeMetricFamily("loradex_workers_alive", f"Workers heard from in the last {WORKER_SILENCE_S} s.", heard)


def _index() -> Iterator[Metric]:
    status = served_status()
    if status is None:
        return
    for name, text in {
        "experts": "Experts that this process can find.",
        "tail": "Of these, how many no snapshot covers yet: they are searched one by one.",
        "lag": "Changes that the view has not seen; the next retrieval or /readyz catches up.",
        "age_seconds": "Seconds since the view was last known to be current.",
    }.items():
        yield GaugeMetricFamily(f"loradex_index_{name}", text, status[name])
