"""The lineage on the page of an adapter: what is told of it, and to whom."""

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.test import Client

from registry.accounts import create_user
from registry.adapters import yank_adapter
from registry.lineage import PER_LEVEL, lineage_of
from registry.models import Adapter, Merge, MergeInput, Revision
from registry.views.lineage import draw_lineage
from tests.pages.conftest import PASSWORD, Upload
from tests.pages.html import check_html

pytestmark = pytest.mark.django_db

Merged = Callable[..., Revision]


@pytest.fixture
def bo() -> User:
    return create_user("bo", PASSWORD)


@pytest.fixture
def merged(upload: Upload) -> Merged:
    """Uploads an adapter and says that it was merged from the parents."""

    def do(name: str, *parents: Revision, seed: int, **fields: str) -> Revision:
        child = upload(name, seed=seed, **fields)
        owner = child.adapter.namespace.owner
        merge = Merge.objects.create(
            owner=owner, method="ties", recipe_hash="c" * 64, request_hash=f"{seed:064x}", revision=child
        )
        for position, parent in enumerate(parents):
            MergeInput.objects.create(merge=merge, position=position, revision=parent, weight=0.25 * (position + 1))
        return child

    return do


def levels(user: User, revision: Revision) -> dict[str | None, int]:
    found = lineage_of(user, Revision.objects.get(pk=revision.pk))
    return {node.name: node.level for node in found.nodes.values()}


def test_the_graph_goes_up_and_down_several_levels(ada: User, upload: Upload, merged: Merged) -> None:
    one, two = upload("ada/one", seed=1), upload("ada/two", seed=2)
    both = merged("ada/both", one, two, seed=3)
    all_three = merged("ada/all", both, upload("ada/three", seed=4), seed=5)
    assert levels(ada, both) == {"ada/one": -1, "ada/two": -1, "ada/both": 0, "ada/all": 1}
    assert levels(ada, all_three) == {"ada/all": 0, "ada/both": -1, "ada/three": -1, "ada/one": -2, "ada/two": -2}
    assert levels(ada, one) == {"ada/one": 0, "ada/both": 1, "ada/all": 2}
    weights = [(edge.source, edge.weight) for edge in lineage_of(ada, both).edges]
    assert weights[:2] == [(f"adapter-{one.adapter_id}", 0.25), (f"adapter-{two.adapter_id}", 0.5)]


def test_a_private_parent_is_a_box_without_a_name(
    client: Client, browser: Client, bo: User, upload: Upload, merged: Merged
) -> None:
    below = upload("ada/undisclosed", seed=1)
    secret = merged("ada/secret", below, seed=2, visibility="private")
    merged("ada/open", secret, upload("ada/other", seed=3), seed=4)
    html = client.get("/adapters/ada/open/").content.decode()
    check_html(html)
    client.force_login(bo)
    for page in (html, client.get("/adapters/ada/open/").content.decode()):
        assert "ada/other" in page
        assert "a private expert" in page
        # Neither its name, its revision, nor what lies behind it.
        for told in ("secret", secret.commit, "undisclosed"):
            assert told not in page
    assert f"/adapters/ada/secret/?revision={secret.commit}" in browser.get("/adapters/ada/open/").content.decode()


def test_private_merges_of_others_are_not_even_counted(
    client: Client, bo: User, upload: Upload, merged: Merged
) -> None:
    one = upload("ada/one", seed=1)
    hidden = merged("bo/hidden", one, upload("ada/two", seed=2), seed=3, visibility="private")
    merged("bo/seen", one, hidden, seed=4)
    html = client.get("/adapters/ada/one/").content.decode()
    assert "bo/seen" in html
    assert "hidden" not in html.replace("visually-hidden", "").replace('type="hidden"', "").replace(" hidden>", "")
    assert "private" not in html
    client.force_login(bo)
    assert "bo/hidden" in client.get("/adapters/ada/one/").content.decode()


def test_a_yanked_parent_is_named_marked_and_not_linked(client: Client, upload: Upload, merged: Merged) -> None:
    one = upload("ada/one", seed=1)
    both = merged("ada/both", one, upload("ada/two", seed=2), seed=3)
    yank_adapter(one.adapter)
    html = client.get("/adapters/ada/both/").content.decode()
    assert "ada/one, yanked" in html
    assert "/adapters/ada/one/" not in html
    yank_adapter(both.adapter)
    assert "ada/both" not in client.get("/adapters/ada/two/").content.decode()


def test_what_was_yanked_in_private_stays_private(client: Client, upload: Upload, merged: Merged) -> None:
    one = upload("ada/concealed", seed=1)
    merged("ada/both", one, upload("ada/two", seed=2), seed=3)
    Adapter.objects.filter(pk=one.adapter_id).update(visibility="private")
    yank_adapter(one.adapter)
    assert "concealed" not in client.get("/adapters/ada/both/").content.decode()


def test_a_popular_expert_shows_some_of_its_merges_and_how_many_more(ada: User, upload: Upload, merged: Merged) -> None:
    one, two = upload("ada/one", seed=1), upload("ada/two", seed=2)
    for number in range(PER_LEVEL + 2):
        merged(f"ada/soup-{number}", one, two, seed=10 + number)
    graph = lineage_of(ada, Revision.objects.get(pk=one.pk))
    assert len(graph.children) == PER_LEVEL
    assert graph.more == {1: 2}


def test_the_lineage_costs_few_queries(
    ada: User, upload: Upload, merged: Merged, django_assert_max_num_queries: Callable
) -> None:
    parents = [upload(f"ada/part-{number}", seed=number) for number in range(6)]
    soup = Revision.objects.get(pk=merged("ada/soup", *parents, seed=9).pk)
    with django_assert_max_num_queries(10):
        graph = lineage_of(ada, soup)
    assert len(graph.parents) == 6


def test_the_drawing_has_a_place_for_everything(ada: User, upload: Upload, merged: Merged) -> None:
    both = merged("ada/both", upload("ada/one", seed=1), upload("ada/two", seed=2), seed=3)
    drawing = draw_lineage(lineage_of(ada, Revision.objects.get(pk=both.pk)), "acme/base")
    boxes = {box["title"]: box for box in drawing["boxes"]}
    assert boxes["base model acme/base"]["y"] < boxes["ada/one"]["y"] < boxes["ada/both, merged by ties"]["y"]
    assert boxes["ada/one"]["y"] == boxes["ada/two"]["y"]
    assert boxes["ada/both, merged by ties"]["href"] == ""
    assert sorted(line["label"] for line in drawing["lines"]) == ["", "", "0.25", "0.5"]
    for box in drawing["boxes"]:
        assert 0 <= box["x"] <= drawing["width"] - 148
        assert 0 <= box["y"] <= drawing["height"] - 46
