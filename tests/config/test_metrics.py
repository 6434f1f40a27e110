"""Who may read the metrics, and that they say what is."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from config import metrics
from registry import jobs
from registry.changes import next_seq
from registry.metrics import forget_the_dead, store_operation
from registry.models import Job, WorkerHeartbeat
from registry.tokens import create_token
from retrieval.live import current_view


def scrape(client) -> dict[tuple[str, ...], float]:
    """(name, label values…) → value."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    families = text_string_to_metric_families(answer.content.decode())
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


@pytest.mark.django_db
def test_the_machine_itself_and_staff_may_read_them(client) -> None:
    def status(**headers: str) -> int:
        return client.get("/metrics", headers=headers).status_code

    def token(name: str, *, staff: bool) -> str:
        return "Bearer " + create_token(User.objects.create_user(name, is_staff=staff), "t", 1)[1]

    away = {"X-Forwarded-For": "203.0.113.7"}
    assert status() == 200
    assert status(**away) == 401
    assert status(**{"X-Forwarded-Proto": "https"}) == 401
    assert client.get("/metrics", REMOTE_ADDR="203.0.113.7").status_code == 401
    assert status(Authorization="Bearer hf_wrong", **away) == 401
    assert status(Authorization=token("ada", staff=False), **away) == 401
    assert status(Authorization=token("ops", staff=True), **away) == 200


@pytest.mark.django_db
def test_they_tell_the_queue_and_the_workers(client) -> None:
    waiting, _ = jobs.enqueue("ingest"), jobs.enqueue("merge")
    Job.objects.filter(pk=waiting.pk).update(queued_at=timezone.now() - timedelta(seconds=90))
    WorkerHeartbeat.objects.create(name="here:1", seen_at=timezone.now())
    WorkerHeartbeat.objects.create(name="gone:1", seen_at=timezone.now() - timedelta(minutes=5))
    found = scrape(client)
    assert found["loradex_jobs", "ingest", "queued"] == 1
    assert found["loradex_jobs", "ingest", "running"] == 0
    assert 90 <= found[("loradex_oldest_queued_job_seconds",)] < 120
    assert found[("loradex_workers_alive",)] == 1
    assert found[("loradex_database_up",)] == 1


@pytest.mark.django_db
def test_they_tell_how_jobs_end(client) -> None:
    def ended(outcome: str) -> float:
        return scrape(client).get(("loradex_jobs_finished_total", "merge", outcome), 0)

    before = {outcome: ended(outcome) for outcome in ("succeeded", "failed", "cancelled")}
    with jobs.finishing(jobs.claim(jobs.enqueue("merge").pk, "w"), {}):
        pass
    jobs.fail(jobs.claim(jobs.enqueue("merge").pk, "w"), "internal", "It failed.")
    jobs.cancel(jobs.enqueue("merge"))
    assert {outcome: ended(outcome) - count for outcome, count in before.items()} == dict.fromkeys(before, 1)


@pytest.mark.django_db
def test_they_tell_the_lag_of_the_index(client) -> None:
    current_view()
    for _ in range(3):
        next_seq()
    assert scrape(client)[("loradex_index_lag",)] == 3
    current_view()
    found = scrape(client)
    assert found[("loradex_index_lag",)] == 0
    assert 0 <= found[("loradex_index_age_seconds",)] < 60


@pytest.mark.django_db
def test_a_store_that_fails_is_counted(client) -> None:
    name = ("loradex_store_errors_total", "test")
    before = scrape(client).get(name, 0)
    with pytest.raises(OSError, match="gone"), store_operation("test"):
        raise OSError("gone")
    assert scrape(client)[name] == before + 1


@pytest.mark.django_db
def test_requests_are_counted_by_route_not_by_path(client) -> None:
    for name in ("one", "two", "three"):
        client.get(f"/api/v1/adapters/ada/{name}/")
        client.get(f"/{name}")
    routes = {labels[1] for name, *labels in scrape(client) if name == "loradex_http_requests_total"}
    assert "/api/v1/adapters/<str:owner>/<str:name>/" in routes
    assert not any("two" in route for route in routes)


@pytest.mark.django_db
def test_a_scrape_asks_the_database_a_few_questions_whatever_its_size(client) -> None:
    current_view()
    for _ in range(50):
        jobs.enqueue("ingest")
    with CaptureQueriesContext(
        connection,
    ) as asked:
        scrape(client)
    assert len(asked) <= 6


def test_counts_outlive_a_process_until_they_are_forgotten(tmp_path: Path, monkeypatch) -> None:
    code = "from prometheus_client import Counter; Counter('seen', 'Seen.').inc(3)"
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert list(tmp_path.glob("counter_*.db"))
    forget_the_dead()
    assert not list(tmp_path.glob("*.db"))


@pytest.mark.django_db
def test_without_the_database_the_counts_are_still_told(client, monkeypatch) -> None:
    def away():
        raise OperationalError("gone")

    monkeypatch.setattr(metrics, "_jobs", away)
    found = scrape(client)
    assert found[("loradex_database_up",)] == 0
    assert ("loradex_upload_bytes_total",) in found
