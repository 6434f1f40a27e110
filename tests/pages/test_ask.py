"""The forms that ask for experts and for merges, as the server sends them."""

import pytest
from django.test import Client

from tests.pages.html import check_html
from tests.retrieval.rows import make_expert, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def experts(client: Client) -> None:
    make_expert("ada/one", base_model="org/base", tags=["geo"], license="mit", state="ready")
    make_expert("ada/two", base_model="org/base", downloads=9, state="ready")
    make_expert("bo/three", base_model="org/other", state="ready")
    make_expert("ada/secret", base_model="org/private", visibility="private", state="ready")


def test_an_empty_registry_has_forms_that_say_so(client: Client) -> None:
    html = client.get("/retrieve/").content.decode()
    check_html(html)
    assert 'data-experts="0"' in html
    html = client.get("/merge/").content.decode()
    check_html(html)
    assert "There are no two experts of one base model yet." in html


def test_the_choices_are_those_that_the_caller_may_see(client: Client, experts: None) -> None:
    answer = client.get("/retrieve/")
    assert answer.context["experts"] == 3
    assert [base["name"] for base in answer.context["bases"]] == ["org/base", "org/other"]
    client.force_login(make_user("ada"))
    bases = client.get("/retrieve/").context["bases"]
    assert [base["name"] for base in bases] == ["org/base", "org/other", "org/private"]


def test_a_merge_begins_with_two_experts_of_one_base(client: Client, experts: None) -> None:
    answer = client.get("/merge/")
    assert answer.context["suggestions"] == [{"base_model": "org/base", "adapters": ["ada/two", "ada/one"]}]
    assert "/merge/?input=ada/two&amp;input=ada/one" in answer.content.decode()


def test_who_has_no_namespace_is_told_what_a_merge_gives(client: Client) -> None:
    client.force_login(make_user("nobody"))
    html = client.get("/merge/").content.decode()
    assert "Your account has no namespace" in html
    assert "Log in to register it" in Client().get("/merge/").content.decode()
