"""Jobs: what is going on, and what came of it."""

from contextlib import suppress
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe
from django.views.decorators.vary import vary_on_headers

from registry.errors import Conflict
from registry.jobs import cancel
from registry.models import Job
from registry.queries import find_job, own_jobs
from registry.views.pages import page

PER_PAGE = 50


@require_safe
@login_required
def jobs(request: HttpRequest) -> HttpResponse:
    rows = own_jobs(request.user).select_related("revision__adapter", "merge")
    found = Paginator(rows, PER_PAGE).get_page(request.GET.get("page"))
    return render(request, "jobs/list.html", {"section": "jobs", "page": found})


@require_safe
@vary_on_headers("HX-Request")
@login_required
@page
def job(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """The job; only its changing part where htmx asks for it."""
    row = find_job(request.user, job_id)
    detail = (row.error or {}).get("detail", {})
    context = {
        "section": "jobs",
        "job": row,
        "is_open": row.status not in Job.FINAL,
        "duration": _duration(row),
        "reasons": detail.get("problems") or detail.get("inputs"),
    }
    template = "jobs/status.html" if "HX-Request" in request.headers else "jobs/page.html"
    return render(request, template, context)


def _duration(row: Job) -> str:
    if row.started_at is None or row.finished_at is None:
        return ""
    seconds = (row.finished_at - row.started_at).total_seconds()
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


@require_POST
@login_required
@page
def cancel_job(request: HttpRequest, job_id: UUID) -> HttpResponse:
    row = find_job(request.user, job_id)
    # Where it finished while the button was pressed, the page says how.
    with suppress(Conflict):
        cancel(row)
    return redirect("job", job_id=job_id)
