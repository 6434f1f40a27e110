"""The page of an adapter, as a browser without scripts gets it."""

import json

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from registry.models import Adapter, Revision
from tests.pages.conftest import Upload
from tests.pages.html import check_html

pytestmark = pytest.mark.django_db


def test_the_page_of_an_adapter_shows_what_one_decides_by(browser: Client, upload: Upload) -> None:
    revision = upload(description="Knows capitals", tags=["geo"], license="mit")
    answer = browser.get("/adapters/ada/capitals/")
    html = answer.content.decode()
    check_html(html)
    for text in ("Knows capitals", "geo", "mit", "Capital of Peru?", "Lima", revision.commit, "PeftModel", "Yank"):
        assert text in html
    assert answer.context["binding"] is None
    assert "Binding not checked" in html
    assert answer.context["heatmap"]["columns"] == ["0", "1"]
    assert f"/api/v1/adapters/ada/capitals/files/adapter_config.json?revision={revision.commit}" in html


def test_only_the_owner_gets_the_controls(client: Client, upload: Upload) -> None:
    upload()
    assert "yank-form" not in client.get("/adapters/ada/capitals/").content.decode()


def test_private_and_unchecked_adapters_are_404_to_others(client: Client, browser: Client, upload: Upload) -> None:
    upload("ada/secret", visibility="private")
    upload("ada/new", seed=1, ready=False)
    for name in ("secret", "new", "never-was"):
        assert client.get(f"/adapters/ada/{name}/").status_code == 404
    assert "private" in browser.get("/adapters/ada/secret/").content.decode()
    assert "Being checked" in browser.get("/adapters/ada/new/").content.decode()
    listed = client.get("/adapters/").content.decode()
    assert "ada/secret" not in listed
    assert "ada/new" not in listed


def test_a_rejected_adapter_says_why_to_its_owner(browser: Client, upload: Upload) -> None:
    revision = upload(ready=False)
    revision.state = Revision.State.REJECTED
    revision.problems = [{"code": "not_finite", "where": "layer.3", "message": "It holds <NaN>."}]
    revision.save()
    html = browser.get("/adapters/ada/capitals/").content.decode()
    assert "It holds &lt;NaN&gt;." in html
    assert "not_finite" in html
    assert "PeftModel" not in html


def test_hidden_samples_are_shown_to_the_owner_only(client: Client, browser: Client, upload: Upload) -> None:
    upload()
    Adapter.objects.update(samples_public=False)
    assert "Capital of Peru?" in browser.get("/adapters/ada/capitals/").content.decode()
    html = client.get("/adapters/ada/capitals/").content.decode()
    assert "Capital of Peru?" not in html
    assert "does not show the sample texts" in html


def test_a_card_reaches_the_page_as_html(client: Client, ada: User, upload: Upload) -> None:
    card = SimpleUploadedFile("README.md", b"---\nlicense: mit\n---\n# Capitals\n\nAll of *them*.")
    upload(**{"README.md": card})
    html = client.get("/adapters/ada/capitals/").content.decode()
    assert "All of <em>them</em>." in html
    assert "license: mit" not in html


def test_the_numbers_of_a_chart_are_in_the_page_as_json(client: Client, upload: Upload) -> None:
    upload()
    html = client.get("/adapters/ada/capitals/").content.decode()
    block = html.split('<script id="spectrum-data" type="application/json">')[1].split("</script>")[0]
    assert json.loads(block)["lines"][0]["sigma"] == [0.6, 0.4, 0.2, 0.1]
