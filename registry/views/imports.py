"""The import page: a directory on the workers' machine is looked at, then taken in. Staff only."""

from typing import Any

from django import forms
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from registry.errors import AppError
from registry.import_jobs import KIND, VERDICTS, counts_of, folders_of, reason_of, start_import, verdict_of
from registry.models import Job, Namespace
from registry.views.progress import poll_s

PER_PAGE = 100
LAST_JOBS = 10
CHECKING_POLL_S = 3


class ImportForm(forms.Form):
    """What `start_import` takes; it judges the values, too."""

    dir = forms.CharField(label="Directory", max_length=4096)
    owner = forms.CharField(max_length=96)
    visibility = forms.ChoiceField(choices=[("public", "Public"), ("private", "Private")], initial="public")
    dry = forms.BooleanField(required=False)

    def start(self, user: Any) -> Job | None:
        """The job; None, with an error on the form, where it is refused."""
        try:
            wanted = self.cleaned_data
            return start_import(user, wanted["dir"], wanted["owner"], wanted["visibility"], dry=wanted["dry"])
        except AppError as error:
            field = next((name for name in error.detail if name in self.fields), "owner")
            self.add_error(field, error.message)
            return None


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def import_page(request: HttpRequest) -> HttpResponse:
    """The form, and the last imports; a POST starts a job and leads to its page."""
    if not request.user.is_staff:
        raise PermissionDenied("Only staff may import from the server's disk.")
    form = ImportForm(request.POST or None, initial=_initial(request))
    if request.method == "POST" and form.is_valid() and (job := form.start(request.user)):
        return redirect("job", job_id=job.pk)
    context = {
        "section": "import",
        "form": form,
        "owners": Namespace.objects.order_by("name").values_list("name", flat=True)[:1000],
        "jobs": Job.objects.filter(kind=KIND).order_by("-queued_at")[:LAST_JOBS],
    }
    return render(request, "import/page.html", context)


def _initial(request: HttpRequest) -> dict[str, Any]:
    given = {name: request.GET[name] for name in ("dir", "owner", "visibility") if request.GET.get(name)}
    return {"owner": request.user.get_username(), "visibility": "public"} | given


def results(request: HttpRequest, job: Job) -> dict[str, Any]:
    """What the page of an import's job shows of its folders; it goes on polling while revisions are checked."""
    counts = counts_of(job)
    verdict = request.GET.get("verdict", "")
    wanted = verdict if verdict in VERDICTS else ""
    found = Paginator(folders_of(job, wanted), PER_PAGE).get_page(request.GET.get("page"))
    rows = [{"folder": row, "verdict": verdict_of(row), "reason": reason_of(row)} for row in found]
    is_checking = bool(counts["checking"]) and job.status == Job.Status.SUCCEEDED
    return {
        "order": job.payload,
        "counts": counts,
        "total": sum(counts.values()),
        "wanted": wanted,
        "page": found,
        "rows": rows,
        "poll_s": poll_s(job) or (CHECKING_POLL_S if is_checking else None),
    }
