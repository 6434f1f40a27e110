"""Search, filters and facets: the same as counting by hand, in any script, and never more than the caller may see."""

import itertools
import random

import pytest
from django.contrib.auth.models import AnonymousUser
from django.http import QueryDict

from registry.accounts import create_user
from registry.adapters import edit_adapter
from registry.errors import Invalid
from registry.intake import Described
from registry.listing import index_adapters
from registry.models import Adapter, Namespace, Revision
from registry.search import find_with_facets, parse_search, search_adapters
from tests.retrieval.rows import make_expert

pytestmark = pytest.mark.django_db

TAGS = ["qa", "Straße", "日本語", "ÜBUNG", "back\\slash", "100%", "a_b"]
BASES = ["acme/wren", "acme/heron", ""]
LICENSES = ["mit", "apache-2.0", ""]


@pytest.fixture
def pool():
    """Sixty experts of three owners with random properties; some private, some not ready."""
    dice = random.Random(0)
    for number in range(60):
        adapter = make_expert(
            f"{dice.choice(['ada', 'bo', 'cy'])}/e{number:02}",
            base_model=dice.choice(BASES),
            license=dice.choice(LICENSES),
            tags=dice.sample(TAGS, dice.randint(0, 3)),
            visibility=dice.choice(["public", "public", "private"]),
        )
        Revision.objects.filter(pk=adapter.head_id).update(summary={"rank": dice.choice([4, 8, 16])})
        if number % 9 == 0:
            Revision.objects.filter(pk=adapter.head_id).update(state="checking")
            Adapter.objects.filter(pk=adapter.pk).update(head=None)
        index_adapters([adapter.pk])
    return list(Adapter.objects.select_related("namespace"))


VALUES = {
    "base_model": lambda row: {row.base_model},
    "tag": lambda row: set(row.tags),
    "license": lambda row: {row.license},
    "owner": lambda row: {row.namespace.name},
    "rank": lambda row: {str(row.rank)},
    "state": lambda row: {row.state},
}


def by_hand(rows, filters, without=None):
    return [
        row
        for row in rows
        if all(VALUES[name](row) & set(values) for name, values in filters.items() if name != without)
    ]


def parsed(filters=None, **more):
    query = QueryDict(mutable=True)
    for name, values in (filters or {}).items():
        query.setlist(name, values)
    query.update(more)
    return parse_search(query)


def test_filters_and_counts_are_those_of_counting_by_hand(pool):
    dice = random.Random(1)
    owner = Namespace.objects.get(name="ada").owner
    for user, _ in itertools.product([AnonymousUser(), owner], range(12)):
        seen = [
            row for row in pool if row.namespace.owner_id == user.pk or (row.head_id and row.visibility == "public")
        ]
        filters = {
            name: sorted({value for row in dice.sample(pool, dice.randint(1, 3)) for value in of(row)} - {""})
            for name, of in VALUES.items()
            if dice.random() < 0.4
        }
        filters = {name: values for name, values in filters.items() if values}
        search = parsed(filters)
        expected = by_hand(seen, filters)
        assert [row.pk for row in search_adapters(user, search)] == [row.pk for row in sorted(expected, key=str)]
        found = find_with_facets(user, search)
        assert found.ids == [row.pk for row in sorted(expected, key=str)]
        for name, of in VALUES.items():
            rest = by_hand(seen, filters, without=name)
            for value, told in found.facets[name]:
                assert told == sum(value in of(row) for row in rest), (name, value, filters)
            offered = {value for row in rest for value in of(row)} - {""}
            assert {value for value, _ in found.facets[name]} == offered | set(filters.get(name, ()))


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("STRASSE", True),
        ("straße", True),
        ("übung", True),
        ("Übung ABC", True),
        ("ÜBUNG xyz", False),
        ("日本", True),
        ("back\\slash", True),
        ("100%", True),
        ("1%0", False),
        ("a_b", True),
        ("axb", False),
        ("ﬁnd", True),
        ("find\0", True),
        ("ΣΊΣΥΦΟΣ", True),
    ],
)
def test_search_knows_no_case_in_any_script_and_takes_every_sign_literally(words, found):
    make_expert("ada/abc", tags=TAGS, description="To FIND Σίσυφος")
    assert search_adapters(AnonymousUser(), parsed(search=words)).exists() is found


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_is_found_as_a_whole_and_by_no_other(tag):
    make_expert("ada/tagged", tags=[tag])
    make_expert("ada/other", tags=[f"{tag}s", tag.swapcase() + "!"])
    assert [row.full_name for row in search_adapters(AnonymousUser(), parsed({"tag": [tag]}))] == ["ada/tagged"]


def test_an_edit_is_found_at_once():
    adapter = make_expert("ada/abc", tags=["old"], description="before")
    edit_adapter(adapter, Described(tags=["new"], description="after"))
    for old, new in (({"search": "before"}, {"search": "after"}), ({"tag": "old"}, {"tag": "new"})):
        assert not search_adapters(AnonymousUser(), parsed(**old)).exists()
        assert search_adapters(AnonymousUser(), parsed(**new)).exists()


def test_an_edit_does_not_undo_what_a_job_published_meanwhile():
    adapter = make_expert("ada/abc")
    stale = Adapter.objects.get(pk=adapter.pk)
    newer = Revision.objects.create(adapter=adapter, commit="b" * 40, state="ready")
    Adapter.objects.filter(pk=adapter.pk).update(head=newer)
    edit_adapter(stale, Described(description="mine"))
    adapter.refresh_from_db()
    assert (adapter.head, adapter.description) == (newer, "mine")


def test_a_value_that_nothing_has_is_told_with_the_count_zero():
    make_expert("ada/abc", tags=["qa"])
    found = find_with_facets(create_user("bo"), parsed({"tag": ["nothing"], "samples": ["yes"]}))
    assert found.ids == []
    assert found.facets["tag"] == [("nothing", 0)]
    assert dict(found.facets["samples"])["yes"] == 0


@pytest.mark.parametrize(
    "query", [{"rank": "-1"}, {"rank": "9" * 30}, {"samples": "maybe"}, {"state": "yanked"}, {"ordering": "norm"}]
)
def test_what_there_cannot_be_is_refused(query):
    with pytest.raises(Invalid):
        parsed(**query)


def test_nul_finds_nothing():
    make_expert("ada/abc", tags=["qa"])
    for name in ("tag", "base_model", "license", "owner"):
        assert not search_adapters(AnonymousUser(), parsed({name: ["q\0a"]})).exists()
