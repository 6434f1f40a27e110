"""What all pages share: who gets them, and what they refuse."""

import pytest
from django.template.loader import render_to_string
from django.test import Client

from tests.pages.conftest import Upload
from tests.pages.html import check_html

pytestmark = pytest.mark.django_db

PUBLIC = [
    "/",
    "/adapters/",
    "/adapters/ada/capitals/",
    "/retrieve/",
    "/trial/",
    "/merge/",
    "/bundle/",
    "/leaderboard/",
    "/methods/",
    "/login/",
    "/signup/",
]
PRIVATE = ["/upload/", "/jobs/", "/settings/tokens/"]


@pytest.mark.parametrize("path", PUBLIC)
def test_public_pages_need_no_account(client: Client, upload: Upload, path: str) -> None:
    upload()
    answer = client.get(path)
    assert answer.status_code == 200
    check_html(answer.content.decode())
    assert "script-src 'self'" in answer["Content-Security-Policy"]


@pytest.mark.parametrize("path", PRIVATE)
def test_pages_of_an_account_lead_to_the_login(client: Client, browser: Client, path: str) -> None:
    assert client.get(path).headers["Location"] == f"/login/?next={path}"
    check_html(browser.get(path).content.decode())


def test_an_empty_registry_says_how_to_start(client: Client) -> None:
    assert "The registry is empty" in client.get("/").content.decode()
    assert "No experts yet" in client.get("/adapters/").content.decode()


def test_a_hostile_query_stays_text(client: Client) -> None:
    html = client.get("/merge/", {"input": "</script><script>alert(1)</script>"}).content.decode()
    html += client.get("/retrieve/", {"text": "</textarea><script>alert(1)</script>"}).content.decode()
    assert "<script>alert" not in html


@pytest.mark.parametrize("template", ["400.html", "403.html", "403_csrf.html", "404.html", "500.html"])
def test_error_pages_need_nothing_of_the_request(template: str) -> None:
    html = render_to_string(template)
    check_html(html)
    assert "Loradex" in html
