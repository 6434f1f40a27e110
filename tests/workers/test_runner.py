"""How a job ends when its handler does not succeed."""

import errno
import threading
from unittest.mock import Mock

import pytest
from django.db import InterfaceError, OperationalError

from registry import jobs
from registry.errors import Conflict, NotReady
from registry.models import Job
from workers import runner

pytestmark = pytest.mark.django_db


@pytest.fixture
def failing(monkeypatch):
    """Makes the handler raise, and returns the job as it is after one run."""

    def run(error, **fields):
        def handle(work):
            raise error

        monkeypatch.setattr("workers.handlers.snapshot.handle", handle)
        job = Job.objects.create(kind="snapshot", **fields)
        runner.run(str(job.pk))
        job.refresh_from_db()
        return job

    return run


PASSING = [
    NotReady("The store is away."),
    OperationalError("the connection is closed"),
    InterfaceError("connection already closed"),
    OSError(errno.ENOSPC, "No space left on device"),
]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
def test_trouble_that_passes_puts_the_job_back_and_says_so_in_its_log(failing, error):
    job = failing(error)
    assert (job.status, job.attempts, job.lease_until) == ("queued", 1, None)
    assert "Trying again in" in job.log.get().message


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
def test_trouble_that_does_not_pass_ends_the_job_with_its_reason(failing, error):
    job = failing(error, attempts=jobs.MAX_ATTEMPTS - 1)
    assert (job.status, job.error["code"], job.attempts) == ("failed", "not_ready", jobs.MAX_ATTEMPTS)
    assert job.error["message"] == runner._passing(error)


@pytest.mark.parametrize(
    ("error", "code"), [(Conflict("It was yanked."), "conflict"), (ZeroDivisionError("secret"), "internal")]
)
def test_an_error_of_the_job_itself_ends_it_at_once_and_says_nothing_internal(failing, error, code):
    job = failing(error)
    assert (job.status, job.error["code"], job.attempts) == ("failed", code, 1)
    assert "secret" not in job.error["message"]


def test_a_kind_that_only_newer_code_knows_is_left_alone(failing):
    """While two versions run side by side, the old worker must not fail the new one's jobs."""
    job = Job.objects.create(kind="invented_later")
    runner.run(str(job.pk))
    job.refresh_from_db()
    assert (job.status, job.attempts) == ("queued", 0)


def test_the_end_of_a_job_waits_for_the_database(failing, monkeypatch):
    real, calls = jobs.fail, []

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) < 3:
            raise OperationalError("the database system is shutting down")
        real(*arguments)

    monkeypatch.setattr(jobs, "fail", fail)
    monkeypatch.setattr(runner.time, "sleep", lambda _: None)
    # It would end the test's transaction.
    monkeypatch.setattr(runner, "connection", Mock())
    assert failing(Conflict("It was yanked.")).status == "failed"
    assert len(calls) == 3


def test_a_lost_lease_leaves_no_connection_open(monkeypatch, settings):
    settings.JOB_LEASE_S = 0.04
    asked = threading.Event()

    def renew(job):
        asked.set()
        raise jobs.LeaseLost

    monkeypatch.setattr(jobs, "renew", renew)
    monkeypatch.setattr(runner, "connection", Mock())
    with runner._lease_kept(Job.objects.create(kind="snapshot")):
        assert asked.wait(10)
    assert runner.connection.close.called
