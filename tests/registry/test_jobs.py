"""The job state machine: who may change which row."""

from datetime import timedelta
from pathlib import Path

import pytest
from celery import Celery
from django.db import IntegrityError, transaction
from django.utils import timezone

from config.backing import broker
from registry import jobs
from registry.errors import Conflict
from registry.models import Job, Revision

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def sent(monkeypatch):
    """The ids that were sent to the broker, instead of sending them."""
    ids = []
    monkeypatch.setattr(jobs, "notify", ids.extend)
    return ids


@pytest.fixture
def job():
    return Job.objects.create(kind="ingest")


def expire(job):
    Job.objects.filter(pk=job.pk).update(lease_until=timezone.now() - timedelta(seconds=1))


def test_a_job_is_claimed_once(job):
    first = jobs.claim(job.pk, "a")
    assert (first.status, first.attempts, first.worker) == ("running", 1, "a")
    assert jobs.claim(job.pk, "b") is None


def test_an_expired_lease_can_be_claimed_and_the_first_worker_changes_nothing_any_more(job):
    zombie = jobs.claim(job.pk, "a")
    expire(job)
    heir = jobs.claim(job.pk, "b")
    assert heir.attempts == 2
    for change in (
        lambda: jobs.renew(zombie),
        lambda: jobs.set_progress(zombie, 0.5),
        lambda: jobs.log(zombie, "late"),
        lambda: jobs.fail(zombie, "internal", "late"),
    ):
        with pytest.raises(jobs.LeaseLost):
            change()
    with pytest.raises(jobs.LeaseLost), jobs.finishing(zombie, {}):
        raise AssertionError("the block of a zombie must not run")
    assert not jobs.release(zombie)
    with jobs.finishing(heir, {"ok": True}):
        pass
    assert Job.objects.get().status == "succeeded"


def test_what_the_finishing_block_stores_is_undone_with_it(job):
    mine = jobs.claim(job.pk, "a")

    def publish_half():
        with jobs.finishing(mine, {}):
            Job.objects.create(kind="other")
            Job.objects.create(kind="other", progress=2)

    with pytest.raises(IntegrityError, match="progress_is_a_fraction"):
        publish_half()
    assert Job.objects.get().status == "running"


def test_a_released_job_is_free_at_once_and_sent_again(job, sent):
    mine = jobs.claim(job.pk, "a")
    assert jobs.release_worker("b") == 0
    assert jobs.release_worker("a") == 1
    with pytest.raises(jobs.LeaseLost):
        jobs.renew(mine)
    jobs.sweep()
    assert sent == [job.pk]
    assert jobs.claim(job.pk, "c").attempts == 2


def test_the_sweeper_requeues_expired_leases_and_gives_up_after_the_limit(job, sent):
    for attempt in range(jobs.MAX_ATTEMPTS):
        assert jobs.claim(job.pk, "a").attempts == attempt + 1
        expire(job)
        jobs.sweep()
    job.refresh_from_db()
    assert (job.status, job.error["code"]) == ("failed", "internal")
    assert sent == [job.pk] * (jobs.MAX_ATTEMPTS - 1)


def test_the_sweeper_leaves_what_is_running_and_what_was_just_sent(job, sent):
    Job.objects.filter(pk=job.pk).update(notified_at=timezone.now())
    running = jobs.claim(Job.objects.create(kind="ingest").pk, "a")
    jobs.sweep()
    assert sent == []
    running.refresh_from_db()
    assert running.status == "running"


def test_a_retry_is_sent_after_a_delay_that_grows(job, sent, settings):
    waits = []
    for attempt in (1, 2, 3):
        jobs.retry(jobs.claim(job.pk, "a"), "not_ready", "The store is away.")
        jobs.sweep()
        assert len(sent) == attempt - 1
        job.refresh_from_db()
        waits.append((job.notified_at - timezone.now()).total_seconds() + settings.JOB_LEASE_S / 2)
        Job.objects.filter(pk=job.pk).update(notified_at=timezone.now() - timedelta(seconds=settings.JOB_LEASE_S))
        jobs.sweep()
        assert sent == [job.pk] * attempt
    assert waits == pytest.approx([10, 40, 160], abs=5)


def test_a_zombie_cannot_put_its_job_back(job):
    zombie = jobs.claim(job.pk, "a")
    expire(job)
    jobs.claim(job.pk, "b")
    with pytest.raises(jobs.LeaseLost):
        jobs.retry(zombie, "not_ready", "late")


def test_a_message_that_waits_in_a_long_queue_is_not_doubled(job, sent):
    """A worker with hours of work before it must not find the queue full of copies afterwards."""
    for message in range(jobs.RESEND_AT_ONCE):
        jobs.current_app.signature(jobs.TASK, args=[str(message)]).apply_async()
    try:
        jobs.sweep()
        assert sent == []
    finally:
        with jobs.current_app.connection_for_write() as broker:
            broker.default_channel.queue_purge(jobs.current_app.conf.task_default_queue)
    jobs.sweep()
    assert sent == [job.pk]


def test_a_broker_that_is_away_fails_no_request(job, monkeypatch, caplog, django_capture_on_commit_callbacks):
    monkeypatch.undo()  # send for real
    redis = Celery(set_as_current=False)
    redis.conf.update(broker({"CELERY_BROKER_URL": "redis://127.0.0.1:1"}, Path()))
    monkeypatch.setattr(jobs, "current_app", redis)
    with django_capture_on_commit_callbacks(execute=True):
        made = jobs.enqueue("ingest")
    assert "The broker took no message" in caplog.text
    jobs.sweep()
    assert "The broker is away" in caplog.text
    assert Job.objects.filter(pk__in=[job.pk, made.pk], status="queued").count() == 2


def test_cancelling_stops_the_worker_and_ends_once(job):
    mine = jobs.claim(job.pk, "a")
    jobs.cancel(job)
    with pytest.raises(jobs.LeaseLost):
        jobs.set_progress(mine, 0.5)
    with pytest.raises(Conflict):
        jobs.cancel(job)


def test_a_message_is_sent_only_after_commit(sent, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        job = jobs.enqueue("ingest")
        assert sent == []
    assert sent == [job.pk]


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({"status": "running"}, "running_job_has_a_lease"),
        ({"status": "failed"}, "failed_job_has_an_error"),
        ({"status": "succeeded"}, "succeeded_job_has_a_result"),
        ({"progress": 1.5}, "progress_is_a_fraction"),
    ],
)
def test_the_database_refuses_impossible_rows(fields, constraint):
    with pytest.raises(IntegrityError, match=constraint), transaction.atomic():
        Job.objects.create(kind="ingest", **fields)


def test_every_status_is_final_or_can_be_cancelled():
    for status in Job.Status:
        assert (status in Job.FINAL) != (status in (Job.Status.QUEUED, Job.Status.RUNNING))
    assert set(Revision.State) == {"checking", "ready", "rejected"}
