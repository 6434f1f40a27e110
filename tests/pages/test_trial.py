"""The page that tries experts, and what the pages of jobs say of trials."""

import pytest
from django.test import Client

from registry.models import Job
from tests.pages.html import check_html
from tests.retrieval.rows import make_expert, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def experts() -> None:
    make_expert("ada/one", base_model="org/base", state="ready")
    make_expert("ada/two", base_model="HuggingFaceTB/SmolLM2-135M-Instruct", state="ready")
    make_expert("bo/three", base_model="HuggingFaceTB/SmolLM2-135M-Instruct", state="ready")
    make_expert("ada/secret", base_model="org/private", visibility="private", state="ready")


def test_an_empty_registry_says_what_is_missing(client: Client) -> None:
    html = client.get("/trial/").content.decode()
    check_html(html)
    assert "There is no expert to try yet" in html
    assert "trial-form" not in html


def test_the_base_with_the_most_experts_comes_first_and_says_whether_it_is_here(client: Client, experts: None) -> None:
    answer = client.get("/trial/")
    check_html(answer.content.decode())
    assert answer.context["bases"] == [
        {"name": "HuggingFaceTB/SmolLM2-135M-Instruct", "experts": 2, "runnable": True},
        {"name": "org/base", "experts": 1, "runnable": False},
    ]
    assert "Log in and try them" in answer.content.decode()
    client.force_login(make_user("ada"))
    assert [base["name"] for base in client.get("/trial/").context["bases"]][1:] == ["org/base", "org/private"]


def test_the_pages_of_jobs_lead_to_the_ranking(client: Client) -> None:
    ada = make_user("ada")
    client.force_login(ada)
    job = Job.objects.create(kind="trial", owner=ada, payload={"examples": 1}, status="succeeded", result={})
    Job.objects.filter(pk=job.pk).update(result={"ranking": []})
    html = client.get(f"/jobs/{job.pk}/").content.decode()
    check_html(html)
    assert "Trying experts on 1 example<" in html
    assert f'href="/trial/?job={job.pk}">Open the ranking' in html
    assert f'href="/trial/?job={job.pk}">ranking' in client.get("/jobs/?kind=trial").content.decode()


def test_private_examples_are_on_no_page(client: Client) -> None:
    ada, operator = make_user("ada"), make_user("operator")
    private = {"examples": [{"input": "a secret line", "output": "b"}], "prompt": "{line}"}
    job = Job.objects.create(kind="trial", owner=ada, payload={"examples": 1}, private=private)
    operator.is_staff = True
    operator.save()
    for user in (ada, operator):
        client.force_login(user)
        for path in (f"/jobs/{job.pk}/", "/jobs/?whose=all", f"/api/v1/jobs/{job.pk}/"):
            answer = client.get(path)
            assert answer.status_code == 200
            assert "secret" not in answer.content.decode()
