"""Jobs: enqueue, claim, renew, finish. The row is the truth; a message to the broker is a hint.

| step | rows it may change |
|---|---|
| claim | `queued`, or `running` with an expired lease → `running`, attempts + 1 |
| renew, progress | `running` with my attempt number |
| finish | `running` with my attempt number → `succeeded`, `failed` |
| release | `running` with my attempt number → `queued` |
| cancel | `queued`, `running` → `cancelled` |

A worker that lost its lease changes nothing any more, because its attempt number is not the row's.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from celery import current_app
from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Now
from kombu.exceptions import OperationalError

from registry.errors import Conflict
from registry.models import Job, JobLog, Revision

logger = logging.getLogger(__name__)

TASK = "workers.tasks.run_job"
MAX_ATTEMPTS = 5
NOTIFY_AGAIN_S = 30
RESEND_AT_ONCE = 20


class LeaseLost(Exception):
    """Another worker has the job now, or it was cancelled: stop, and change nothing."""


def enqueue(kind: str, *, owner: Any = None, revision: Any = None, merge: Any = None, payload: Any = None) -> Job:
    """A queued job; its message is sent when the surrounding transaction commits."""
    job = Job.objects.create(kind=kind, owner=owner, revision=revision, merge=merge, payload=payload or {})
    transaction.on_commit(lambda: notify([job.pk]))
    return job


def notify(job_ids: list[Any]) -> None:
    """Tell the workers about jobs. A broker that is away is not an error: the sweeper tells them later."""
    Job.objects.filter(pk__in=job_ids).update(notified_at=Now())
    try:
        for job_id in job_ids:
            current_app.signature(TASK, args=[str(job_id)]).apply_async(retry=False)
    except (OperationalError, OSError):
        logger.warning("The broker took no message; the sweeper will send it again", exc_info=True)


def claim(job_id: Any, worker: str) -> Job | None:
    """Take a job that is free. Returns: the job with its new attempt number, or None."""
    free = Q(status=Job.Status.QUEUED) | Q(status=Job.Status.RUNNING, lease_until__lt=Now())
    taken = Job.objects.filter(free, pk=job_id).update(
        status=Job.Status.RUNNING,
        attempts=F("attempts") + 1,
        worker=worker,
        lease_until=_lease(),
        started_at=Now(),
        progress=0.0,
    )
    return Job.objects.select_related("revision__adapter", "merge", "owner").get(pk=job_id) if taken else None


def _lease() -> Any:
    return Now() + timedelta(seconds=settings.JOB_LEASE_S)


def _mine(job: Job) -> Any:
    return Job.objects.filter(pk=job.pk, status=Job.Status.RUNNING, attempts=job.attempts)


def renew(job: Job) -> None:
    """Extend the lease. Raises: LeaseLost."""
    if not _mine(job).update(lease_until=_lease()):
        raise LeaseLost


def set_progress(job: Job, progress: float) -> None:
    """Store how far the work is, 0..1. Raises: LeaseLost."""
    if not _mine(job).update(progress=min(max(progress, 0.0), 1.0)):
        raise LeaseLost


def log(job: Job, message: str) -> None:
    JobLog.objects.create(job=job, message=message)


@contextmanager
def finishing(job: Job, result: dict[str, Any]) -> Iterator[None]:
    """Success and everything the block publishes, in one transaction. Raises: LeaseLost, and nothing is stored."""
    with transaction.atomic():
        if not _mine(job).update(
            status=Job.Status.SUCCEEDED, result=result, progress=1.0, finished_at=Now(), lease_until=None
        ):
            raise LeaseLost
        yield


def fail(job: Job, code: str, message: str, detail: dict[str, Any] | None = None) -> None:
    """End a job that is mine, and reject the revision it was to admit. Raises: LeaseLost."""
    error = {"code": code, "message": message, "detail": detail or {}}
    with transaction.atomic():
        if not _mine(job).update(status=Job.Status.FAILED, error=error, finished_at=Now(), lease_until=None):
            raise LeaseLost
        _reject(job, code, message, (detail or {}).get("problems"))


def _reject(job: Job, code: str, message: str, problems: list[Any] | None = None) -> None:
    if job.revision_id:
        Revision.objects.filter(pk=job.revision_id, state=Revision.State.CHECKING).update(
            state=Revision.State.REJECTED,
            problems=problems or [{"code": code, "where": "job", "message": message}],
        )


def release(job: Job) -> bool:
    """Put a job of mine back into the queue. Returns: whether it was still mine."""
    freed = _mine(job).update(status=Job.Status.QUEUED, lease_until=None, notified_at=None, progress=0.0)
    return bool(freed)


def release_worker(worker: str) -> int:
    """Put back what a worker that is stopping holds. Returns: how many."""
    held = Job.objects.filter(worker=worker, status=Job.Status.RUNNING)
    return sum(release(job) for job in held)


def cancel(job: Job) -> None:
    """End a job that has not finished. Raises: Conflict where it has."""
    with transaction.atomic():
        open_jobs = Job.objects.filter(pk=job.pk, status__in=[Job.Status.QUEUED, Job.Status.RUNNING])
        if not open_jobs.update(status=Job.Status.CANCELLED, finished_at=Now(), lease_until=None):
            raise Conflict("The job has already finished; there is nothing to cancel.")
        _reject(job, "cancelled", "Its job was cancelled. Upload it again to have it checked.")


def sweep() -> None:
    """Re-drive what was lost: expired leases go back to the queue (or end, after MAX_ATTEMPTS), messages are resent."""
    expired = Q(status=Job.Status.RUNNING, lease_until__lt=Now())
    for job in Job.objects.filter(expired, attempts__gte=MAX_ATTEMPTS):
        logger.error("Job %s lost its worker %d times; giving up", job.pk, job.attempts)
        fail(
            job,
            "internal",
            f"The worker stopped {job.attempts} times in this job. The operator's log has more.",
        )
    Job.objects.filter(expired).update(status=Job.Status.QUEUED, lease_until=None, notified_at=None, progress=0.0)
    silent = Q(notified_at=None) | Q(notified_at__lt=Now() - timedelta(seconds=NOTIFY_AGAIN_S))
    waiting = Job.objects.filter(silent, status=Job.Status.QUEUED).order_by("queued_at")
    if job_ids := list(waiting.values_list("pk", flat=True)[:RESEND_AT_ONCE]):
        notify(job_ids)
