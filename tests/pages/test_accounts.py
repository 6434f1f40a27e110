"""Signing up, and the tokens of an account."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from registry.accounts import create_user
from registry.models import Namespace
from tests.pages.conftest import PASSWORD
from tests.pages.html import check_html

pytestmark = pytest.mark.django_db


def test_sign_up_makes_the_namespace_and_logs_in(client: Client) -> None:
    form = {"username": "carol", "password1": PASSWORD, "password2": PASSWORD}
    assert client.post("/signup/", form).headers["Location"] == "/"
    assert Namespace.objects.get().name == "carol"
    assert "carol" in client.get("/").content.decode()


@pytest.mark.parametrize("name", ["admin", "Ada", "a--b", "../x"])
def test_sign_up_refuses_a_name_beside_its_field(client: Client, ada: User, name: str) -> None:
    answer = client.post("/signup/", {"username": name, "password1": PASSWORD, "password2": PASSWORD})
    assert answer.status_code == 200
    assert list(answer.context["form"].errors) == ["username"]
    assert User.objects.count() == 1


def test_the_login_leads_to_the_sign_up_where_that_is_open(client: Client) -> None:
    assert client.get("/login/").content.decode().count("/signup/") == 2


def test_sign_up_can_be_closed(client: Client, settings: Any) -> None:
    settings.SIGNUP_OPEN = False
    form = {"username": "carol", "password1": PASSWORD, "password2": PASSWORD}
    assert client.post("/signup/", form).status_code == 403
    assert not User.objects.exists()
    assert "/signup/" not in client.get("/login/").content.decode()


def test_a_token_is_shown_once_works_and_can_be_revoked(client: Client, browser: Client) -> None:
    answer = browser.post("/settings/tokens/", {"name": "laptop", "days": 7})
    secret = answer.context["secret"]
    assert secret in answer.content.decode()
    assert secret not in browser.get("/settings/tokens/").content.decode()
    bearer = {"Authorization": f"Bearer {secret}"}
    assert client.get("/api/v1/jobs/", headers=bearer).status_code == 200
    browser.post(f"/settings/tokens/{answer.context['token'].pk}/revoke/")
    assert client.get("/api/v1/jobs/", headers=bearer).status_code == 401


def test_a_token_of_somebody_else_is_not_found(client: Client, browser: Client) -> None:
    token = browser.post("/settings/tokens/", {"name": "laptop", "days": 7}).context["token"]
    client.force_login(create_user("bo", PASSWORD))
    assert client.post(f"/settings/tokens/{token.pk}/revoke/").status_code == 404


@pytest.mark.parametrize("days", ["0", "-1", "99999", "soon"])
def test_a_token_lasts_a_sensible_time(browser: Client, days: str) -> None:
    answer = browser.post("/settings/tokens/", {"name": "laptop", "days": days})
    assert "secret" not in answer.context
    assert list(answer.context["form"].errors) == ["days"]


def test_revoking_asks_first_and_says_what_it_means(browser: Client) -> None:
    browser.post("/settings/tokens/", {"name": "laptop", "days": 3})
    html = browser.get("/settings/tokens/").content.decode()
    check_html(html)
    assert "Scripts that use it stop working at once" in html
    assert "Revoke laptop now" in html
    assert ">soon<" in html


def test_the_forms_of_an_account_tell_the_browser_what_they_ask_for(client: Client) -> None:
    html = client.get("/login/?next=/upload/").content.decode()
    assert "Log in to go on" in html
    assert 'autocomplete="username"' in html
    assert 'autocomplete="current-password"' in html
    assert client.get("/signup/").content.decode().count('autocomplete="new-password"') == 2


def test_a_wrong_password_is_said_without_saying_which_half(client: Client, ada: User) -> None:
    for username in ("ada", "nobody"):
        answer = client.post("/login/", {"username": username, "password": "wrong"})
        html = answer.content.decode()
        assert 'role="alert"' in html
        assert "correct username and password" in html
