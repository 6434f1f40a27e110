"""The list of adapters: facets, chips, order, pages; with scripts and without."""

import re
from html import unescape

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from registry.listing import index_adapters
from registry.models import Adapter, Namespace, Revision
from tests.pages.conftest import Upload
from tests.pages.html import check_html

pytestmark = pytest.mark.django_db


@pytest.fixture
def crowd(ada: User, upload: Upload) -> list[str]:
    """Sixty adapters in rows of their own, beside a real one. Returns: their names."""
    head = upload()
    namespace = Namespace.objects.get(owner=ada)
    names = [f"expert-{number:03}" for number in range(60)]
    Adapter.objects.bulk_create(
        Adapter(namespace=namespace, name=name, full_name=f"ada/{name}", key=f"ada/{name}", tags=[name[-1]])
        for name in names
    )
    revisions = Revision.objects.bulk_create(
        Revision(adapter=adapter, commit=f"{adapter.pk:040x}", state="ready", facts=head.facts)
        for adapter in Adapter.objects.filter(head=None)
    )
    for revision in revisions:
        Adapter.objects.filter(pk=revision.adapter_id).update(head=revision)
    index_adapters(revision.adapter_id for revision in revisions)
    return names


def shown(answer) -> list[str]:
    return [adapter.full_name for adapter in answer.context["adapters"]]


def facet(answer, name: str) -> dict[str, int]:
    """What a facet offers: value → count."""
    [found] = [facet for facet in answer.context["facets"] if facet["name"] == name] or [{"values": [], "more": []}]
    return {item["value"]: item["count"] for item in found["values"] + found["more"]}


def test_a_browser_without_scripts_gets_form_facets_and_rows(client: Client, upload: Upload) -> None:
    upload("ada/one", seed=1, tags=["geo"], license="mit")
    upload("ada/two", seed=2, tags=["maths", "geo"], license="apache-2.0")
    answer = client.get("/adapters/", {"tag": "geo", "license": ["mit", "apache-2.0"], "search": ""})
    html = answer.content.decode()
    check_html(html)
    assert shown(answer) == ["ada/two", "ada/one"]
    assert facet(answer, "tag") == {"geo": 2, "maths": 1}
    assert re.search(r'name="license" value="mit" checked', html)
    assert 'action="/merge/" method="get"' in html
    assert 'name="input" value="ada/one"' in html
    assert 'formaction="/adapters/compare/"' in html


def test_htmx_gets_what_changes_and_a_short_address(client: Client, upload: Upload) -> None:
    upload("ada/one", seed=1, tags=["geo"])
    upload("ada/two", seed=2, tags=["maths"])
    query = {"tag": "geo", "search": "", "ordering": "-updated_at", "page": "7"}
    answer = client.get("/adapters/", query, headers={"HX-Request": "true"})
    html = answer.content.decode()
    assert shown(answer) == ["ada/one"]
    assert html.lstrip().startswith('<section id="results"')
    assert '<div id="facets" hx-swap-oob="true"' in html
    assert '<p id="count" role="status" hx-swap-oob="innerHTML"><strong>1</strong> expert fits' in html
    assert answer.headers["HX-Push-Url"] == "/adapters/?tag=geo"
    assert "HX-Request" in answer.headers["Vary"]


def test_a_chip_takes_its_filter_away_and_nothing_else(client: Client, upload: Upload) -> None:
    upload("ada/one", tags=["geo", "a&b"])
    answer = client.get("/adapters/", {"tag": ["geo", "a&b"], "search": "one", "ordering": "name"})
    links = re.findall(r'<a class="chip" href="([^"]+)" aria-label="Remove', answer.content.decode())
    rest = {unescape(link) for link in links}
    assert rest == {"/adapters/?search=one&tag=a%26b&ordering=name", "/adapters/?search=one&tag=geo&ordering=name"}
    for link in rest:
        assert shown(client.get(link)) == ["ada/one"]


def test_what_one_sees_of_one_s_own_is_marked_and_only_the_ready_can_be_selected(
    client: Client, browser: Client, upload: Upload
) -> None:
    upload("ada/secret", visibility="private")
    upload("ada/new", seed=1, ready=False)
    answer = browser.get("/adapters/")
    html = answer.content.decode()
    assert facet(answer, "state") == {"checking": 1, "ready": 1}
    assert shown(browser.get("/adapters/?state=checking")) == ["ada/new"]
    assert 'value="ada/new" aria-label="Select ada/new" disabled' in html
    assert ">private<" in html
    assert shown(client.get("/adapters/")) == []


def test_no_match_says_what_to_do(client: Client, upload: Upload) -> None:
    upload(tags=["geo"])
    html = client.get("/adapters/?search=nothing-like-it").content.decode()
    assert "No expert fits" in html
    assert "/retrieve/?text=nothing-like-it" in html
    html = client.get("/adapters/?search=capitals&tag=maths").content.decode()
    assert 'href="/adapters/?search=capitals">clear the filters' in html


def test_the_list_is_as_cheap_with_many_rows(client: Client, crowd: list[str]) -> None:
    with CaptureQueriesContext(
        connection,
    ) as queries:
        answer = client.get("/adapters/?ordering=name&page=2")
    assert shown(answer) == [f"ada/{name}" for name in crowd[24:49]]
    assert "?ordering=name&amp;page=3" in answer.content.decode()
    assert len(queries) <= 5
    assert not any('modules"' in query["sql"].replace("modules_", "") for query in queries)
    assert not any("description" in query["sql"] for query in queries if "COUNT" in query["sql"])


def test_a_page_past_the_end_is_the_last_one(client: Client, crowd: list[str]) -> None:
    assert shown(client.get("/adapters/?ordering=name&page=99")) == [f"ada/{name}" for name in crowd[49:]]


@pytest.mark.parametrize(
    ("query", "message"),
    [("ordering=fame", "ordering is one of"), ("state=secret", "state is"), ("rank=eight", "rank is a whole number")],
)
def test_what_the_list_cannot_do_is_a_page_of_status_400(client: Client, query: str, message: str) -> None:
    answer = client.get(f"/adapters/?{query}")
    assert answer.status_code == 400
    assert message in answer.content.decode()


def test_selected_experts_are_compared_side_by_side(client: Client, upload: Upload) -> None:
    upload("ada/one", seed=1, license="mit")
    upload("ada/two", seed=2, license="apache-2.0")
    upload("ada/secret", seed=3, visibility="private")
    names = ["ada/one", "ada/two", "ada/secret", "ada/one"]
    answer = client.get("/adapters/compare/", {"input": names})
    html = answer.content.decode()
    check_html(html)
    rows = {row["title"]: row for row in answer.context["rows"]}
    assert rows["Licence"] == {"title": "Licence", "values": ["mit", "apache-2.0"], "differs": True}
    assert not rows["Rank"]["differs"]
    assert answer.context["missing"] == ["ada/secret"]
    assert "/merge/?input=ada%2Fone&amp;input=ada%2Ftwo" in html
    assert "Nothing to compare" in client.get("/adapters/compare/").content.decode()
