"""Jobs: what is going on, and what came of it."""

from contextlib import suppress
from typing import Any
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe
from django.views.decorators.vary import vary_on_headers

from registry.describe import merge_json
from registry.errors import Conflict
from registry.import_jobs import KIND as IMPORT
from registry.jobs import cancel
from registry.models import Job, MergeInput
from registry.queries import find_job, own_jobs
from registry.views.charts import training
from registry.views.imports import results
from registry.views.merges import form_query
from registry.views.pages import page
from registry.views.progress import failure_of, is_open, kind_words, poll_s, progress_of

PER_PAGE = 50
LOG_LINES = 500
STATUSES = {
    "open": [Job.Status.QUEUED, Job.Status.RUNNING],
    "succeeded": [Job.Status.SUCCEEDED],
    "failed": [Job.Status.FAILED],
    "cancelled": [Job.Status.CANCELLED],
}
# What somebody can do about an error, by its code; beside it stands a link to do it anew.
ADVICE = {
    "invalid_adapter": "Mend the files and upload them again. Nobody but you sees this revision.",
    "not_mergeable": "Change the inputs or the method, and merge again.",
    "base_not_here": "Whoever operates this site can put the base model there; then ask for it again.",
    "not_ready": "A file or a service was away. Try again; if it goes on, tell the operator the id of this job.",
    "internal": "Tell the operator the id of this job: the cause is in the worker's log.",
}


@require_safe
@vary_on_headers("HX-Request")
@login_required
def jobs(request: HttpRequest) -> HttpResponse:
    """The caller's jobs, or everybody's for staff; only the rows where htmx asks for them."""
    rows = Job.objects.all() if _wants_all(request) else own_jobs(request.user)
    kinds = sorted(rows.order_by("kind").values_list("kind", flat=True).distinct())
    found = Paginator(_filtered(rows, request), PER_PAGE).get_page(request.GET.get("page"))
    for job in found:
        job.is_open = is_open(job)
    context = {
        "section": "jobs",
        "page": found,
        "statuses": STATUSES,
        "kinds": {kind: kind_words(kind) for kind in kinds},
        "is_filtered": any(request.GET.get(name) for name in ("status", "kind")),
        "poll_s": 3 if any(job.is_open for job in found) else None,
    }
    return render(request, "jobs/rows.html" if "HX-Request" in request.headers else "jobs/list.html", context)


def _wants_all(request: HttpRequest) -> bool:
    return request.user.is_staff and request.GET.get("whose") == "all"


def _filtered(rows: QuerySet[Job], request: HttpRequest) -> QuerySet[Job]:
    if statuses := STATUSES.get(request.GET.get("status", "")):
        rows = rows.filter(status__in=statuses)
    if kind := request.GET.get("kind"):
        rows = rows.filter(kind=kind)
    inputs = MergeInput.objects.select_related("revision__adapter").defer("revision__modules")
    shown = rows.select_related("revision__adapter", "merge", "owner").defer("revision__modules")
    return shown.prefetch_related(Prefetch("merge__inputs", inputs))


@require_safe
@vary_on_headers("HX-Request")
@login_required
@page
def job(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """The job; only its changing part where htmx asks for it."""
    row = find_job(request.user, job_id)
    context = {
        "section": "jobs",
        "job": row,
        "is_open": is_open(row),
        "poll_s": poll_s(row),
        "progress": progress_of(row),
        "advice": ADVICE.get((row.error or {}).get("code", "")),
        **failure_of(row),
        **_log(row),
        **training((row.result or {}).get("losses")),
        **(results(request, row) if row.kind == IMPORT else {}),
        **({"form_query": form_query(merge_json(row.merge))} if row.merge else {}),
    }
    template = "jobs/status.html" if "HX-Request" in request.headers else "jobs/page.html"
    return render(request, template, context)


def _log(row: Job) -> dict[str, Any]:
    """The newest lines of the log, and how many are before them."""
    newest = list(row.log.order_by("-id")[:LOG_LINES])[::-1]
    return {"log": newest, "earlier_lines": row.log.count() - len(newest)}


@require_POST
@login_required
@page
def cancel_job(request: HttpRequest, job_id: UUID) -> HttpResponse:
    row = find_job(request.user, job_id)
    # Where it finished while the button was pressed, the page says how.
    with suppress(Conflict):
        cancel(row)
    return redirect("job", job_id=job_id)
