"""The merge form and the page of a merge."""

import pytest
from django.test import Client

from registry.accounts import create_user
from registry.models import Merge
from tests.pages.conftest import PASSWORD
from tests.pages.html import check_html

pytestmark = pytest.mark.django_db


def test_a_merge_is_shown_with_report_and_lineage(client: Client, browser: Client, merge: Merge) -> None:
    html = browser.get(f"/merges/{merge.pk}/").content.decode()
    check_html(html)
    assert "91.30%" in html
    assert "ada/one" in html
    child = browser.get("/adapters/ada/both/").content.decode()
    assert "Merged from" in child
    assert f"/merges/{merge.pk}/" in child
    assert "Merged into" in browser.get("/adapters/ada/one/").content.decode()
    client.force_login(create_user("bo", PASSWORD))
    assert client.get(f"/merges/{merge.pk}/").status_code == 404


def test_the_merge_form_is_filled_from_the_address(client: Client) -> None:
    given = {"input": ["ada/one:0.62", "ada/two@" + "a" * 40 + ":-0.5", "bo/three", "", "x" * 999, "a:b"]}
    answer = client.get("/merge/", given)
    assert answer.context["inputs"] == [
        {"adapter": "ada/one", "weight": "0.62"},
        {"adapter": "ada/two@" + "a" * 40, "weight": "-0.5"},
        {"adapter": "bo/three", "weight": ""},
    ]
