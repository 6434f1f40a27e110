"""The list of adapters."""

import pytest
from django.contrib.auth.models import User
from django.test import Client

from registry.models import Adapter, Namespace, Revision
from tests.pages.conftest import Upload

pytestmark = pytest.mark.django_db


def test_the_list_filters_and_htmx_gets_the_rows_alone(client: Client, upload: Upload) -> None:
    upload("ada/one", seed=1, tags=["geo"])
    upload("ada/two", seed=2, tags=["maths"])
    answer = client.get("/adapters/", {"tag": "geo", "search": "", "owner": "ada"}, headers={"HX-Request": "true"})
    html = answer.content.decode()
    assert [row["adapter"].full_name for row in answer.context["rows"]] == ["ada/one"]
    assert html.lstrip().startswith('<section id="results"')
    assert "No expert fits" in client.get("/adapters/?search=nothing-like-it").content.decode()


def test_the_list_stays_cheap_with_many_rows(client: Client, ada: User, upload: Upload, django_assert_max_num_queries):
    head = upload()
    namespace = Namespace.objects.get(owner=ada)
    names = [f"expert-{number:03}" for number in range(60)]
    Adapter.objects.bulk_create(
        Adapter(namespace=namespace, name=name, full_name=f"ada/{name}", key=f"ada/{name}") for name in names
    )
    revisions = Revision.objects.bulk_create(
        Revision(adapter=adapter, commit=f"{adapter.pk:040x}", state="ready", facts=head.facts)
        for adapter in Adapter.objects.filter(head=None)
    )
    for revision in revisions:
        Adapter.objects.filter(pk=revision.adapter_id).update(head=revision)
    with django_assert_max_num_queries(8):
        answer = client.get("/adapters/?ordering=name&page=2")
    assert [row["adapter"].name for row in answer.context["rows"]] == [*names[24:49]]
    assert "?ordering=name&amp;page=3" in answer.content.decode()


def test_what_the_list_cannot_do_is_a_page_of_status_400(client: Client) -> None:
    answer = client.get("/adapters/?ordering=fame")
    assert answer.status_code == 400
    assert "ordering is one of" in answer.content.decode()
