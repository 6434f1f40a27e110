"""The pages of jobs."""

import pytest
from django.test import Client

from registry.accounts import create_user
from registry.models import Job, JobLog
from tests.pages.conftest import PASSWORD, Upload

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
