"""Jobs: the rows are the truth about background work, the broker's messages are hints."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q


class Job(models.Model):
    """One piece of work: `queued` → `running` → `succeeded` | `failed` | `cancelled`.

    A worker holds a running job only until `lease_until` and only under its own `attempts` number.
    """

    class Status(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELLED = "cancelled"

    FINAL = (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=40)
    status = models.CharField(max_length=9, choices=Status, default=Status.QUEUED)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="jobs")
    revision = models.ForeignKey("registry.Revision", null=True, on_delete=models.CASCADE, related_name="jobs")
    merge = models.ForeignKey("registry.Merge", null=True, on_delete=models.CASCADE, related_name="jobs")
    payload = models.JSONField(default=dict)
    # What only the worker needs to know, such as a caller's own examples; erased when the job ends, however it does.
    private = models.JSONField(null=True)
    # Of the request that asked for it, as the web process logged it; empty where a command did.
    request_id = models.CharField(max_length=64, blank=True)
    progress = models.FloatField(default=0.0)
    attempts = models.PositiveIntegerField(default=0)
    worker = models.CharField(max_length=200, blank=True)
    lease_until = models.DateTimeField(null=True)
    # When its message was last sent, so that a lost one is sent again; later than that where a retry has to wait.
    notified_at = models.DateTimeField(null=True)
    queued_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    error = models.JSONField(null=True)
    result = models.JSONField(null=True)

    class Meta:
        ordering = ["-queued_at"]
        indexes = [models.Index(fields=["status", "lease_until"], name="job_by_status_and_lease")]
        constraints = [
            models.CheckConstraint(
                condition=~Q(status="running") | Q(lease_until__isnull=False), name="running_job_has_a_lease"
            ),
            models.CheckConstraint(
                condition=~Q(status="failed") | Q(error__isnull=False), name="failed_job_has_an_error"
            ),
            models.CheckConstraint(
                condition=~Q(status="succeeded") | Q(result__isnull=False), name="succeeded_job_has_a_result"
            ),
            models.CheckConstraint(condition=Q(progress__gte=0) & Q(progress__lte=1), name="progress_is_a_fraction"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.id} ({self.status})"


class JobLog(models.Model):
    """One line of a job's log."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="log")
    at = models.DateTimeField(auto_now_add=True)
    message = models.TextField()

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return self.message


class WorkerHeartbeat(models.Model):
    """When a worker was last heard from."""

    name = models.CharField(max_length=200, primary_key=True)
    seen_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name
