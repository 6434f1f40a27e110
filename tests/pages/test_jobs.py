"""The pages of jobs."""

from dataclasses import asdict
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from lora.errors import InvalidAdapter, Problem
from registry.accounts import create_user
from registry.models import Job, JobLog, Merge, MergeInput, WorkerHeartbeat
from registry.views.progress import in_words, poll_s
from tests.pages.conftest import PASSWORD, Upload
from tests.pages.html import check_html

pytestmark = pytest.mark.django_db


def test_an_open_job_polls_and_a_finished_one_does_not(client: Client, browser: Client, upload: Upload) -> None:
    job = upload(ready=False).jobs.get()
    JobLog.objects.create(job=job, message="Checking <the> values")
    page = f"/jobs/{job.pk}/"
    html = browser.get(page, headers={"HX-Request": "true"}).content.decode()
    assert 'hx-trigger="every 1s"' in html
    assert "Checking &lt;the&gt; values" in html
    assert "<html" not in html
    problem = {"code": "not_finite", "where": "lora_B", "message": "NaN."}
    error = {"code": "invalid_adapter", "message": "Not usable.", "detail": {"problems": [problem]}}
    Job.objects.update(status="failed", error=error)
    html = browser.get(page).content.decode()
    assert "hx-get" not in html
    assert "lora_B" in html
    client.force_login(create_user("bo", PASSWORD))
    assert client.get(page).status_code == 404


def test_a_job_is_cancelled_from_its_page_once(browser: Client, upload: Upload) -> None:
    job = upload(ready=False).jobs.get()
    for _ in range(2):
        assert browser.post(f"/jobs/{job.pk}/cancel/").headers["Location"] == f"/jobs/{job.pk}/"
        assert Job.objects.get().status == "cancelled"


def test_a_queued_job_says_what_it_waits_for(browser: Client, upload: Upload) -> None:
    first, second = (upload(f"ada/n{seed}", ready=False, seed=seed).jobs.get() for seed in range(2))
    html = browser.get(f"/jobs/{second.pk}/").content.decode()
    assert "1 job ahead of it" in html
    assert "No worker is running" in html
    WorkerHeartbeat.objects.create(name="a:1", seen_at=timezone.now())
    html = browser.get(f"/jobs/{first.pk}/").content.decode()
    assert "Next in the queue" in html
    assert "No worker is running" not in html
    check_html(html)


def test_a_running_job_says_how_long_and_why_it_was_started_again(browser: Client, ada: User) -> None:
    job = Job.objects.create(kind="merge", owner=ada)
    started = timezone.now() - timedelta(seconds=100)
    running = {"status": "running", "attempts": 3, "progress": 0.5, "started_at": started}
    Job.objects.update(**running, lease_until=timezone.now() + timedelta(hours=1))
    html = browser.get(f"/jobs/{job.pk}/").content.decode()
    assert "Attempt 3 of at most 5: before it, a worker or a service stopped." in html
    assert "about 1 min 4" not in html  # nobody works on it
    assert "Yes, cancel this job" in html
    assert f"/api/v1/jobs/{job.pk}/" in html
    WorkerHeartbeat.objects.create(name="a:1", seen_at=timezone.now())
    assert "about 1 min 4" in browser.get(f"/jobs/{job.pk}/").content.decode()


def test_a_job_that_failed_for_one_reason_says_it_once(browser: Client, ada: User) -> None:
    problem = Problem("not_finite", "lora_B", "It holds NaN.")
    detail = {"problems": [asdict(problem)]}
    error = {"code": "invalid_adapter", "message": str(InvalidAdapter([problem])), "detail": detail}
    Job.objects.create(kind="ingest", owner=ada, status="failed", error=error)
    html = browser.get(f"/jobs/{Job.objects.get().pk}/").content.decode()
    assert html.count("It holds NaN.") == 1
    assert "<strong>lora_B</strong>: It holds NaN. <code>not_finite</code>" in html


@pytest.mark.parametrize(("age_s", "expected"), [(1, 1), (40, 2), (400, 5), (10_000, 15)])
def test_an_old_job_is_asked_for_less_often(ada: User, age_s: int, expected: int) -> None:
    job = Job.objects.create(kind="merge", owner=ada)
    job.queued_at -= timedelta(seconds=age_s)
    assert poll_s(job) == expected
    job.status = "succeeded"
    assert poll_s(job) is None


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.42, "0.4 s"), (59, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations_are_words(seconds: float, words: str) -> None:
    assert in_words(timedelta(seconds=seconds)) == words


def test_the_page_of_an_upload_ends_with_the_final_verdict(browser: Client, upload: Upload) -> None:
    job = upload().jobs.get()
    result = {"adapter": "ada/capitals"}
    Job.objects.update(status="succeeded", result=result, started_at=timezone.now(), finished_at=timezone.now())
    html = browser.get(f"/jobs/{job.pk}/").content.decode()
    assert "ada/capitals is ready" in html
    assert "base_unknown" in html
    assert "Cancel" not in html
    Job.objects.update(status="failed", error={"code": "internal", "message": "Wrong.", "detail": {}})
    html = browser.get(f"/jobs/{job.pk}/").content.decode()
    assert "Tell the operator the id of this job" in html
    assert "/upload/?name=ada/capitals" in html


def test_a_failed_merge_leads_back_to_its_form(browser: Client, merge: Merge) -> None:
    job = merge.jobs.get()
    Job.objects.filter(pk=job.pk).update(
        status="failed", error={"code": "not_mergeable", "message": "No.", "detail": {}}, finished_at=timezone.now()
    )
    html = browser.get(f"/jobs/{job.pk}/").content.decode()
    assert "/merge/?input=ada/one@" in html
    assert "&amp;method=ties" in html
    check_html(html)


def test_merges_without_a_name_are_told_apart_by_their_inputs(
    browser: Client, merge: Merge, upload: Upload, django_assert_max_num_queries: Any
) -> None:
    for parents in (("ada/three",), tuple(f"ada/x{number}" for number in range(5))):
        job = Job.objects.create(kind="merge", owner=merge.owner, status="cancelled")
        job.merge = Merge.objects.create(owner=merge.owner, method="ties", output={}, request_hash=parents[0])
        job.save()
        for position, name in enumerate(parents):
            revision = upload(name, ready=False, seed=10 * len(parents) + position)
            MergeInput.objects.create(merge=job.merge, position=position, revision=revision, weight=1)
    Job.objects.filter(kind="ingest").update(status="cancelled")
    with django_assert_max_num_queries(6):
        html = browser.get("/jobs/").content.decode()
    assert "Merging into ada/both by ties" in html
    assert "Merging ada/three by ties" in html
    assert "Merging ada/x0, ada/x1, ada/x2 and 2 more by ties" in html


def test_a_long_log_shows_its_end(browser: Client, ada: User) -> None:
    job = Job.objects.create(kind="merge", owner=ada)
    JobLog.objects.bulk_create(JobLog(job=job, message=f"line {number}.") for number in range(600))
    html = browser.get(f"/jobs/{job.pk}/").content.decode()
    assert "100 earlier lines" in html
    assert "line 599." in html
    assert "line 99." not in html


def test_the_list_filters_pages_and_polls_only_while_something_is_open(
    browser: Client, ada: User, django_assert_max_num_queries: Any
) -> None:
    assert "No jobs yet" in browser.get("/jobs/").content.decode()
    Job.objects.bulk_create(Job(kind="merge", owner=ada, status="cancelled") for _ in range(1000))
    Job.objects.create(kind="ingest", owner=ada)
    Job.objects.create(kind="snapshot", owner=create_user("bo", PASSWORD))
    with django_assert_max_num_queries(8):
        answer = browser.get("/jobs/")
    check_html(answer.content.decode())
    assert answer.context["page"].paginator.count == 1001
    assert 'hx-trigger="every 3s"' in answer.content.decode()
    answer = browser.get("/jobs/?status=cancelled&kind=merge&page=20", headers={"HX-Request": "true"})
    assert len(answer.context["page"]) == 50
    assert "every" not in answer.content.decode()
    assert "<html" not in answer.content.decode()
    assert "No such jobs" in browser.get("/jobs/?status=failed").content.decode()


def test_staff_may_see_the_jobs_of_everybody(browser: Client, ada: User) -> None:
    Job.objects.create(kind="snapshot", owner=create_user("bo", PASSWORD))
    assert browser.get("/jobs/?whose=all").context["page"].paginator.count == 0
    User.objects.filter(pk=ada.pk).update(is_staff=True)
    assert browser.get("/jobs/").context["page"].paginator.count == 0
    assert browser.get("/jobs/?whose=all").context["page"].paginator.count == 1


def test_the_job_of_gates_draws_their_losses(browser: Client, ada: User) -> None:
    losses = [2 - 0.01 * step for step in range(100)]
    order = {"kind": "phatgoose", "adapter": "ada/capitals", "revision": 1}
    result = {"adapter": "ada/capitals", "revision": "0" * 40, "kind": "phatgoose", "modules": 4, "losses": losses}
    job = Job.objects.create(kind="prototype", owner=ada, payload=order, status="succeeded", result=result)
    answer = browser.get(f"/jobs/{job.pk}/")
    html = answer.content.decode()
    check_html(html)
    assert answer.context["first_loss"] == pytest.approx(1.955)
    assert answer.context["last_loss"] == pytest.approx(1.055)
    assert 'data-chart="losses"' in html
    Job.objects.filter(pk=job.pk).update(
        status="failed", result=None, error={"code": "base_not_here", "message": "No."}
    )
    html = browser.get(f"/jobs/{job.pk}/").content.decode()
    assert "can put the base model there" in html
    assert 'href="/adapters/ada/capitals/#prototypes"' in html


def test_the_job_of_a_bundle_leads_to_its_page(browser: Client, ada: User) -> None:
    job = Job.objects.create(
        kind="bundle", owner=ada, payload={"bundle": "b"}, status="succeeded", result={"bundle": "b"}
    )
    assert f'href="/bundle/?job={job.pk}"' in browser.get(f"/jobs/{job.pk}/").content.decode()
    Job.objects.filter(pk=job.pk).update(status="failed", result=None, error={"code": "internal", "message": "No."})
    assert 'href="/bundle/?bundle=b">Change and bundle again' in browser.get(f"/jobs/{job.pk}/").content.decode()
