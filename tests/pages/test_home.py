"""The first page."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import NoReverseMatch, reverse

from retrieval import map as experts_map
from tests.pages.conftest import Upload
from tests.pages.html import check_html
from tests.retrieval.rows import make_expert

pytestmark = pytest.mark.django_db


def test_it_asks_for_a_prompt_or_a_name(client: Client, upload: Upload) -> None:
    upload()
    html = client.get("/").content.decode()
    check_html(html)
    assert 'action="/retrieve/"' in html
    assert 'action="/adapters/"' in html
    assert "ada/capitals" in html


def test_private_experts_are_neither_shown_nor_counted(client: Client, browser: Client, upload: Upload) -> None:
    upload("ada/open", seed=1)
    upload("ada/secret", seed=2, visibility="private")
    answer = client.get("/")
    assert answer.context["numbers"]["experts"] == 1
    assert "secret" not in answer.content.decode()
    assert browser.get("/").context["numbers"]["experts"] == 2


def test_an_empty_registry_leads_staff_to_the_import(client: Client, browser: Client, ada: User) -> None:
    try:
        address = reverse("import")
    except NoReverseMatch:
        pytest.fail("there is no import page")
    assert f'href="{address}"' not in client.get("/").content.decode()
    assert f'href="{address}"' not in browser.get("/").content.decode()
    User.objects.filter(pk=ada.pk).update(is_staff=True)
    assert f'href="{address}"' in browser.get("/").content.decode()


def test_the_map_is_drawn_once_per_change_and_caller(client: Client, browser: Client, monkeypatch: Any) -> None:
    drawn = []
    draw = experts_map._draw
    monkeypatch.setattr(experts_map, "_draw", lambda view, user: drawn.append(user) or draw(view, user))
    for name in ("bo/one", "bo/two", "bo/three"):
        make_expert(name, [f"What is {name}?"])
    for _ in range(2):
        assert client.get("/api/v1/map/").json()["count"] == 3
        assert browser.get("/api/v1/map/").json()["count"] == 3
    assert len(drawn) == 2
    make_expert("bo/four", ["Count to four."])
    assert client.get("/api/v1/map/").json()["count"] == 4
    assert len(drawn) == 3
