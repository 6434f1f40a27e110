"""The pages of compositions: list, one of them with what became of its experts, the form, and what leads there."""

import json
from datetime import UTC, datetime
from html import unescape
from typing import Any

import pytest
import torch
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from safetensors.torch import save

from lora.compositions import COMPOSITIONS, formula_of
from registry.accounts import create_user
from registry.adapters import publish
from registry.models import Adapter, Job, Revision
from retrieval.models import Composition, CompositionExpert
from tests.lora.factories import MODULES
from tests.pages.conftest import PASSWORD, Upload
from tests.pages.html import check_html

pytestmark = pytest.mark.django_db

EXPERTS = ["ada/one", "ada/two"]
LOSSES = [2 - 0.01 * step for step in range(100)]


@pytest.fixture
def two(upload: Upload) -> list[Revision]:
    return [upload(name, seed=seed) for seed, name in enumerate(EXPERTS)]


def compose(browser: Client, name: str = "ada/both", kind: str = "lora_flow", **more: Any) -> Composition:
    """One more version through the API, with gates of random numbers."""
    shapes = COMPOSITIONS.get(kind).run(COMPOSITIONS.parse(kind, {}))
    places = list(MODULES)[:1] if COMPOSITIONS.get(kind).traits["place"] == "model" else list(MODULES)
    tensors = {}
    for place in places:
        d_out, d_in = MODULES[place]
        sizes = {"n": 2, "n-1": 1, "o": d_out, "d": d_in, "n*o": 2 * d_out}
        for part, shape in shapes.items():
            tensors[f"{place}.{part}"] = torch.rand(
                [sizes.get(size, 3) if isinstance(size, str) else size for size in shape]
            )
    request = {"name": name, "type": kind, "adapters": EXPERTS} | more
    gates = SimpleUploadedFile("gates.safetensors", save(tensors))
    answer = browser.post("/api/v1/compositions/", {"request": json.dumps(request), "gates": gates})
    assert answer.status_code == 201, answer.content
    return Composition.objects.get(commit=answer.json()["composition"]["revision"])


def shown(client: Client, path: str, status: int = 200) -> str:
    answer = client.get(path)
    assert answer.status_code == status
    html = answer.content.decode()
    check_html(html)
    return html


def test_without_any_the_list_says_what_one_is_and_how_it_is_made(client: Client) -> None:
    html = shown(client, "/compositions/")
    assert "There is no composition yet" in html
    assert 'href="/compositions/new/"' in html
    assert html.count("/api/v1/compositions/") == 2
    assert f"any of {len(COMPOSITIONS.names())} types" in html
    assert "<select" not in html.split("<main")[1].split("</main>")[0]


def test_the_list_names_each_with_its_experts_and_its_training(two: Any, browser: Client, client: Client) -> None:
    trained = compose(browser, description="Both <b>of</b> them")
    Composition.objects.update(training={"steps": 100, "seed": 0, "losses": LOSSES})
    compose(browser, "ada/kept", "calm")
    compose(browser, "ada/hidden", "mole", visibility="private")
    html = shown(client, "/compositions/")
    assert "2 compositions" in html
    assert "Both &lt;b&gt;of&lt;/b&gt; them" in html
    assert "100 steps, loss 1.96 → 1.06" in html
    assert f'href="/adapters/ada/one/?revision={two[0].commit}">ada/one' in html
    assert trained.base_model in html
    assert "not run here" in html
    assert "ada/hidden" not in html
    assert "ada/hidden" in shown(browser, "/compositions/")


def test_filters_are_those_of_the_api_and_a_page_has_fifty(two: Any, browser: Client, client: Client) -> None:
    first = compose(browser)
    copies = [
        Composition(
            namespace=first.namespace, full_name=f"ada/c{i:03}", key=f"ada/c{i:03}", commit=f"{i:040x}", type="mole"
        )
        for i in range(1000)
    ]
    rows = Composition.objects.bulk_create(copies)
    CompositionExpert.objects.bulk_create(
        CompositionExpert(composition=row, position=place, revision=revision)
        for row in rows
        for place, revision in enumerate(two)
    )
    html = shown(client, "/compositions/")
    assert "Page 1 of 21" in html
    assert html.count('<td data-label="Owner">') == 50
    assert "ada/both" in shown(client, "/compositions/?page=21")
    assert "1 composition<" in shown(client, "/compositions/?type=lora_flow&adapter=ada/one&owner=&base_model=")
    assert "page=2&amp;" not in html
    assert "type=mole" in shown(client, "/compositions/?type=mole&page=2")
    assert "No composition fits" in shown(client, "/compositions/?owner=nobody")
    assert "There is no type of composition" in shown(client, "/compositions/?type=nonsense", 400)


def test_a_list_takes_as_many_queries_for_many_as_for_one(
    two: Any, browser: Client, client: Client, django_assert_max_num_queries: Any
) -> None:
    for i in range(5):
        compose(browser, f"ada/c{i}")
    with django_assert_max_num_queries(8):
        shown(client, "/compositions/")


@pytest.mark.parametrize("kind", COMPOSITIONS.names())
def test_the_page_of_every_type_has_formula_shapes_and_what_runs_it(
    kind: str, two: Any, browser: Client, client: Client
) -> None:
    method = COMPOSITIONS.get(kind)
    row = compose(browser, kind=kind)
    answer = client.get("/compositions/ada/both/")
    check_html(answer.content.decode())
    assert answer.context["formula"] == formula_of(method) != ""
    shapes = method.run(COMPOSITIONS.parse(kind, {}))
    assert list(dict.fromkeys(gate["name"] for gate in answer.context["gates"])) == list(shapes)
    assert sum(gate["places"] for gate in answer.context["gates"]) == len(row.places) * len(shapes)
    html = answer.content.decode()
    assert f"/api/v1/compositions/ada/both/archive/?revision={row.commit}" in html
    assert ("with Composition.load(folder).on(model" in html) == method.traits["runs"]
    assert (f"not run here. When to use it: {method.traits['when']}" in unescape(html)) != method.traits["runs"]
    if method.traits["reads"] == "preference":
        assert "preference=[1.0, 1.0])" in html


def test_a_trained_one_draws_its_losses_and_every_version_has_its_page(
    two: Any, browser: Client, client: Client
) -> None:
    old = compose(browser)
    Composition.objects.update(training={"steps": 100, "seed": 7, "losses": LOSSES})
    new = compose(browser)
    html = shown(client, f"/compositions/ada/both/?revision={old.commit}")
    assert "This is an older version" in html
    assert 'data-chart="losses"' in html
    assert "<strong>1.955</strong>" in html
    html = shown(client, "/compositions/ada/both/")
    assert "older version" not in html
    assert "data-chart" not in html
    assert f'href="?revision={old.commit}"' in html
    assert f'href="?revision={new.commit}" aria-current="true"' in html
    shown(client, "/compositions/ada/nothing/", 404)
    shown(client, f"/compositions/ada/both/?revision={'0' * 40}", 404)


def test_what_became_of_the_experts_is_said(
    two: Any, ada: User, browser: Client, client: Client, upload: Upload
) -> None:
    compose(browser)
    newer = upload("ada/one", seed=9)
    publish(newer, newer.facts, 1.0, [])
    html = shown(client, "/compositions/ada/both/")
    assert html.count("newer revision") == 1
    assert html.count(">unchanged<") == 1
    Adapter.objects.filter(full_name="ada/two").update(yanked_at=datetime(2026, 1, 1, tzinfo=UTC))
    shown(client, "/compositions/ada/both/", 404)
    html = shown(browser, "/compositions/ada/both/")
    assert "It cannot be downloaded" in html
    assert "/archive/" not in html
    assert "/adapters/ada/two/" not in html


def test_a_name_that_is_code_stays_a_string_in_the_code(two: Any, browser: Client, client: Client) -> None:
    compose(browser)
    Composition.objects.update(base_model='a"); import os; ("')
    html = shown(client, "/compositions/ada/both/")
    assert "from_pretrained(&quot;a\\&quot;); import os; (\\&quot;&quot;)" in html


def test_its_owner_alone_deletes_it(two: Any, browser: Client, client: Client) -> None:
    compose(browser)
    compose(browser)
    create_user("bob", PASSWORD)
    client.login(username="bob", password=PASSWORD)
    assert "/delete/" not in shown(client, "/compositions/ada/both/")
    assert client.post("/compositions/ada/both/delete/").status_code == 403
    assert browser.get("/compositions/ada/both/delete/").status_code == 405
    assert 'action="/compositions/ada/both/delete/"' in shown(browser, "/compositions/ada/both/")
    answer = browser.post("/compositions/ada/both/delete/", follow=True)
    assert answer.redirect_chain == [("/compositions/", 302)]
    assert "ada/both is deleted" in answer.content.decode()
    assert not Composition.objects.exists()
    assert browser.post("/compositions/ada/both/delete/").status_code == 404


def test_the_form_begins_with_experts_and_takes_up_a_training(
    two: Any, ada: User, browser: Client, client: Client
) -> None:
    html = shown(client, "/compositions/new/")
    assert "?input=ada/one&amp;input=ada/two" in html
    assert "<option>ada</option>" not in html
    assert "<option>ada</option>" in shown(browser, "/compositions/new/")
    payload = {"name": "ada/x", "type": "lora_flow", "params": {}, "visibility": "private", "description": "Both"}
    payload |= {"steps": 30, "seed": 2, "revisions": [revision.pk for revision in two]}
    job = Job.objects.create(kind="compose", owner=ada, payload=payload, status="cancelled")
    answer = browser.get(f"/jobs/{job.pk}/compose/")
    wanted = "&".join(f"input={revision.adapter.full_name}@{revision.commit}" for revision in two)
    assert answer.url == (
        f"/compositions/new/?{wanted}&name=ada/x&type=lora_flow&steps=30&seed=2&visibility=private&description=Both"
    )
    assert client.get(f"/jobs/{job.pk}/compose/").url.startswith("/login/")
    Job.objects.update(kind="trial")
    assert browser.get(f"/jobs/{job.pk}/compose/").status_code == 404


def test_the_page_of_an_expert_and_of_a_job_lead_to_it(two: Any, ada: User, browser: Client, client: Client) -> None:
    row = compose(browser)
    compose(browser, "ada/hidden", visibility="private")
    html = shown(client, "/adapters/ada/one/")
    assert 'href="/compositions/ada/both/"' in html
    assert "ada/hidden" not in html
    assert 'href="/compositions/ada/hidden/"' in shown(browser, "/adapters/ada/one/")
    for i in range(5):
        compose(browser, f"ada/c{i}")
    assert 'href="/compositions/?adapter=ada/one"' in shown(client, "/adapters/ada/one/")
    result = {"composition": "ada/both", "revision": row.commit, "steps": 100, "seed": 0, "losses": LOSSES}
    job = Job.objects.create(kind="compose", owner=ada, payload={"name": "ada/both"}, status="succeeded", result=result)
    html = shown(browser, f"/jobs/{job.pk}/")
    assert f'href="/compositions/ada/both/?revision={row.commit}">Open ada/both' in html
    assert 'data-chart="losses"' in html
    assert f'href="/compositions/ada/both/?revision={row.commit}">ada/both' in shown(browser, "/jobs/")
    Job.objects.update(status="failed", result=None, error={"code": "base_not_here", "message": "No.", "detail": {}})
    assert f'href="/jobs/{job.pk}/compose/">Change and train again' in shown(browser, f"/jobs/{job.pk}/")
