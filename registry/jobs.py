"""Jobs: enqueue, claim, renew, finish. The row is the truth; a message to the broker is a hint.

| step | rows it may change |
|---|---|
| claim | `queued`, or `running` with an expired lease → `running`, attempts + 1 |
| renew, progress | `running` with my attempt number |
| finish | `running` with my attempt number → `succeeded`, `failed` |
| release, retry | `running` with my attempt number → `queued` |
| cancel | `queued`, `running` → `cancelled` |

A worker that lost its lease changes nothing any more, because its attempt number is not the row's.
"""

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from celery import current_app
from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Now
from django.utils import timezone
from structlog.contextvars import get_contextvars

from registry.changes import next_seq
from registry.errors import Conflict
from registry.listing import index_adapters
from registry.metrics import JOB_SECONDS, JOBS_FINISHED
from registry.models import Adapter, Job, JobLog, Revision

logger = logging.getLogger(__name__)

TASK = "workers.tasks.run_job"
MAX_ATTEMPTS = 5
# In leases: how long a message may stay without effect, and how long the first retry waits. Each next one waits four
# times as long, so that a job outlives a store or a disk that is in trouble for a quarter of an hour.
NOTIFY_AGAIN = 1 / 2
FIRST_RETRY = 1 / 6
RETRY_FACTOR = 4
RESEND_AT_ONCE = 20
EXPIRED = Q(status=Job.Status.RUNNING, lease_until__lt=Now())


class LeaseLost(Exception):
    """Another worker has the job now, or it was cancelled: stop, and change nothing."""


def enqueue(
    kind: str,
    *,
    owner: Any = None,
    revision: Any = None,
    merge: Any = None,
    payload: Any = None,
    private: Any = None,
) -> Job:
    """A queued job; its message is sent when the surrounding transaction commits."""
    job = Job.objects.create(
        kind=kind,
        owner=owner,
        revision=revision,
        merge=merge,
        payload=payload or {},
        private=private,
        request_id=get_contextvars().get("request_id", ""),
    )
    # Robust: the job is stored, so that nothing which goes wrong from here on may fail the request.
    transaction.on_commit(lambda: notify([job.pk]), robust=True)
    return job


def notify(job_ids: list[Any]) -> None:
    """Tell the workers about jobs. A broker that is away is not an error: the sweeper tells them later."""
    Job.objects.filter(pk__in=job_ids).update(notified_at=Now())
    try:
        for job_id in job_ids:
            current_app.signature(TASK, args=[str(job_id)]).apply_async(retry=False)
    except Exception as error:  # each broker's client has exceptions of its own
        logger.warning("The broker took no message; the sweeper will send it again: %r", error)


def claim(job_id: Any, worker: str, kinds: Collection[str] | None = None) -> Job | None:
    """Take a job that is free, of one of `kinds` if given. Returns: the job with its new attempt number, or None."""
    free = Q(status=Job.Status.QUEUED) | EXPIRED
    known = Q() if kinds is None else Q(kind__in=kinds)
    taken = Job.objects.filter(free, known, pk=job_id).update(
        status=Job.Status.RUNNING,
        attempts=F("attempts") + 1,
        worker=worker,
        lease_until=_lease(),
        started_at=Now(),
        progress=0.0,
    )
    return Job.objects.select_related("revision__adapter").get(pk=job_id) if taken else None


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
    """Add a line to the job's log. Raises: LeaseLost: another attempt has the job by now."""
    if not Job.objects.filter(pk=job.pk, attempts=job.attempts).exists():
        raise LeaseLost
    JobLog.objects.create(job=job, message=message)


@contextmanager
def finishing(job: Job, result: dict[str, Any]) -> Iterator[None]:
    """Success and everything the block publishes, in one transaction. Raises: LeaseLost, and nothing is stored."""
    with transaction.atomic():
        if not _mine(job).update(status=Job.Status.SUCCEEDED, result=result, progress=1.0, **_ended()):
            raise LeaseLost
        yield
    _count(job, Job.Status.SUCCEEDED)


def _ended() -> dict[str, Any]:
    """What a job's end changes beside its status, whichever it is."""
    return {"finished_at": Now(), "lease_until": None, "private": None}


def _count(job: Job, outcome: Job.Status) -> None:
    JOBS_FINISHED.labels(job.kind, str(outcome)).inc()
    if job.started_at:
        JOB_SECONDS.labels(job.kind).observe((timezone.now() - job.started_at).total_seconds())


def fail(job: Job, code: str, message: str, detail: dict[str, Any] | None = None) -> None:
    """End a job that is mine, and reject the revision it was to admit. Raises: LeaseLost."""
    if not _fail(_mine(job), job, code, message, detail):
        raise LeaseLost


def _fail(rows: Any, job: Job, code: str, message: str, detail: dict[str, Any] | None = None) -> bool:
    """End the job if it is (still) one of `rows`. Returns: whether it was."""
    error = {"code": code, "message": message, "detail": detail or {}}
    with transaction.atomic():
        ended = rows.update(status=Job.Status.FAILED, error=error, **_ended())
        if ended:
            _reject(job, code, message, (detail or {}).get("problems"))
    if ended:
        _count(job, Job.Status.FAILED)
    return bool(ended)


def _reject(job: Job, code: str, message: str, problems: list[Any] | None = None) -> None:
    checking = Revision.objects.filter(pk=job.revision_id, state=Revision.State.CHECKING)
    if job.revision_id and checking.update(
        state=Revision.State.REJECTED,
        problems=problems or [{"code": code, "where": "job", "message": message}],
    ):
        # Its owner's list changes, and two writers of its tags must take turns.
        Adapter.objects.filter(pk=job.revision.adapter_id).update(change_seq=next_seq())
        index_adapters([job.revision.adapter_id])


def release(job: Job) -> bool:
    """Put a job of mine back into the queue. Returns: whether it was still mine."""
    return _requeue(_mine(job), None)


def _requeue(rows: Any, notified_at: Any) -> bool:
    queued = {"status": Job.Status.QUEUED, "lease_until": None, "progress": 0.0}
    return bool(rows.update(**queued, notified_at=notified_at))


def retry(job: Job, code: str, message: str) -> None:
    """Put a job of mine back for later, because what hindered it will pass; fail it after MAX_ATTEMPTS.

    Raises: LeaseLost.
    """
    if job.attempts >= MAX_ATTEMPTS:
        return fail(job, code, message)
    delay_s = settings.JOB_LEASE_S * FIRST_RETRY * RETRY_FACTOR ** (job.attempts - 1)
    # As if told so long ago that the sweeper's next message is due after the delay.
    told = Now() + timedelta(seconds=delay_s - settings.JOB_LEASE_S * NOTIFY_AGAIN)
    if not _requeue(_mine(job), told):
        raise LeaseLost
    log(job, f"{message} Trying again in {delay_s:.0f} s.")
    return None


def release_worker(worker: str) -> int:
    """Put back what a worker that is stopping holds. Returns: how many."""
    held = Job.objects.filter(worker=worker, status=Job.Status.RUNNING)
    return sum(release(job) for job in held)


def cancel(job: Job) -> None:
    """End a job that has not finished. Raises: Conflict where it has."""
    with transaction.atomic():
        open_jobs = Job.objects.filter(pk=job.pk, status__in=[Job.Status.QUEUED, Job.Status.RUNNING])
        if not open_jobs.update(status=Job.Status.CANCELLED, **_ended()):
            raise Conflict("The job has already finished; there is nothing to cancel.")
        _reject(job, "cancelled", "Its job was cancelled. Upload it again to have it checked.")
    _count(job, Job.Status.CANCELLED)


def sweep() -> None:
    """Re-drive what was lost: expired leases go back to the queue (or end, after MAX_ATTEMPTS), messages are resent."""
    for job in Job.objects.filter(EXPIRED, attempts__gte=MAX_ATTEMPTS):
        message = f"The worker stopped {job.attempts} times in this job. The operator's log has more."
        # Asked again with the update: another worker may sweep at the same time, or the job's own come back.
        if _fail(Job.objects.filter(EXPIRED, pk=job.pk), job, "internal", message):
            logger.error("Job %s lost its worker %d times; giving up", job.pk, job.attempts)
    _requeue(Job.objects.filter(EXPIRED), None)
    told = Now() - timedelta(seconds=settings.JOB_LEASE_S * NOTIFY_AGAIN)
    silent = Job.objects.filter(Q(notified_at=None) | Q(notified_at__lt=told), status=Job.Status.QUEUED)
    job_ids = list(silent.order_by("queued_at").values_list("pk", flat=True)[:RESEND_AT_ONCE])
    if job_ids and _queue_is_short():
        notify(job_ids)


def _queue_is_short() -> bool:
    """Whether a silent job's message may be lost: in a long queue it is waiting, and a copy would only lengthen it."""
    with current_app.connection_for_read() as broker:
        try:
            queue = broker.default_channel.queue_declare(current_app.conf.task_default_queue, passive=True)
        except broker.channel_errors:  # a broker that started empty does not know the queue
            return True
        except Exception as error:  # each broker's client has exceptions of its own
            logger.warning("The broker is away; %r", error)
            return False
    return queue.message_count < RESEND_AT_ONCE
