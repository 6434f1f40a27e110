"""How far a job is, in the words of its page."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.utils import timezone

from registry.jobs import MAX_ATTEMPTS
from registry.models import Job
from registry.queries import worker_is_heard

KINDS = {
    "ingest": "check of an upload",
    "merge": "merge",
    "preview": "measuring for a merge",
    "trial": "trial",
    "bundle": "bundle",
    "compose": "training gates over experts",
    "route": "routing by the base model",
    "baselines": "comparing with generic texts",
    "prototype": "prototypes by the base model",
    "snapshot": "index",
    "import_folder": "import",
    "reembed": "re-embedding",
    "fit_space": "fitting the hybrid space",
}
# (age of the job in seconds, seconds between two looks at it): who waits long is asked less often.
PATIENCE = ((30, 1), (300, 2), (3600, 5))
SLOWEST_S = 15
# An estimate from less than this is a guess.
ESTIMABLE = 0.05


@dataclass(frozen=True)
class Progress:
    """What the page says. Durations are words; empty where there is nothing to say."""

    ahead: int
    is_worker_missing: bool
    elapsed: str
    remaining: str
    attempts: str


def kind_words(kind: str) -> str:
    return KINDS.get(kind, kind.replace("_", " "))


def is_open(job: Job) -> bool:
    return job.status not in Job.FINAL


def poll_s(job: Job) -> int | None:
    """Seconds until the page looks again; None once the job is final."""
    if not is_open(job):
        return None
    age_s = (timezone.now() - (job.started_at or job.queued_at)).total_seconds()
    return next((every_s for limit_s, every_s in PATIENCE if age_s < limit_s), SLOWEST_S)


def progress_of(job: Job) -> Progress:
    is_queued = job.status == Job.Status.QUEUED
    before = Job.objects.filter(status=Job.Status.QUEUED, queued_at__lt=job.queued_at)
    spent = (job.finished_at or timezone.now()) - job.started_at if job.started_at else None
    is_estimable = job.status == Job.Status.RUNNING and ESTIMABLE <= job.progress < 1 and spent is not None
    is_worker_missing = is_open(job) and not worker_is_heard()
    return Progress(
        ahead=before.count() if is_queued else 0,
        is_worker_missing=is_worker_missing,
        elapsed=in_words(spent) if spent is not None and not is_queued else "",
        remaining=in_words(spent * (1 - job.progress) / job.progress) if is_estimable and not is_worker_missing else "",
        attempts=_attempts(job),
    )


def failure_of(job: Job) -> dict[str, Any]:
    """Why it failed: `reasons` one by one, and in `summary` what they do not say already."""
    error = job.error or {}
    detail = error.get("detail", {})
    reasons = detail.get("problems") or detail.get("inputs") or []
    summary = error.get("message", "")
    if len(reasons) == 1 and reasons[0]["message"] in summary:
        summary = ""
    return {"summary": summary, "reasons": reasons}


def _attempts(job: Job) -> str:
    """Why it was started more than once."""
    if job.attempts + (job.status == Job.Status.QUEUED) < 2:
        return ""
    if job.status == Job.Status.QUEUED:
        return f"Waiting for attempt {job.attempts + 1} of at most {MAX_ATTEMPTS}: a worker or a service stopped."
    return f"Attempt {job.attempts} of at most {MAX_ATTEMPTS}: before it, a worker or a service stopped."


def in_words(duration: timedelta) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    seconds = max(duration.total_seconds(), 0.0)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
