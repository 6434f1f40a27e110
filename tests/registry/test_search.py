"""Search, filters and facets: the same as counting by hand, in any script, and never more than the caller may see."""

import itertools
import random

import pytest
from django.contrib.auth.models import AnonymousUser
from django.db.models import F
from django.http import QueryDict

from registry import facets, jobs
from registry.accounts import create_user
from registry.adapters import edit_adapter, yank_adapter
from registry.errors import Invalid
from registry.intake import Described
from registry.listing import index_adapters
from registry.models import Adapter, ChangeCounter, Job, Namespace, Revision
from registry.search import Found, parse_search, search_adapters
from tests.retrieval.rows import make_expert, publish

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
        found = Found(user, search)
        assert found.count() == len(expected)
        assert found[:100] == sorted(expected, key=str)
        counted = found.facets()
        for name, of in VALUES.items():
            rest = by_hand(seen, filters, without=name)
            for value, told in counted[name]:
                assert told == sum(value in of(row) for row in rest), (name, value, filters)
            offered = {value for row in rest for value in of(row)} - {""}
            assert {value for value, _ in counted[name]} == offered | set(filters.get(name, ()))


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


def test_counts_follow_every_change_without_reading_what_did_not_change(pool, django_assert_num_queries):
    """Against those of a process that starts now."""
    dice = random.Random(2)
    owner = Namespace.objects.get(name="ada").owner

    def facets_and_count() -> list[object]:
        found = [Found(user, parsed({"tag": ["qa"]})) for user in (AnonymousUser(), owner)]
        return [(one.count(), one.facets()) for one in found]

    facets_and_count()
    for adapter in dice.sample([row for row in pool if row.head_id], 12):
        change = dice.choice([{"tags": ["qa", f"new-{adapter.pk}"]}, {"visibility": "private"}, {"license": "bsd"}])
        publish(adapter, **change)
        make_expert(f"bo/new-{adapter.pk}", tags=["qa"], base_model=f"acme/new-{adapter.pk}")
        yank_adapter(dice.choice(pool))
        followed = facets_and_count()
        with django_assert_num_queries(1):
            facets.listed()
        facets.forget()
        assert facets_and_count() == followed


def test_a_database_that_was_put_back_is_read_anew():
    adapter = make_expert("ada/abc", license="mit")
    publish(adapter, license="bsd")
    assert Found(AnonymousUser(), parsed()).facets()["license"] == [("bsd", 1)]
    ChangeCounter.objects.update(value=F("value") - 1)
    Adapter.objects.filter(pk=adapter.pk).update(license="mit", change_seq=F("change_seq") - 1)
    assert Found(AnonymousUser(), parsed()).facets()["license"] == [("mit", 1)]


def test_a_rejected_upload_is_counted_as_such_at_once():
    adapter = make_expert("ada/abc")
    owner = adapter.namespace.owner
    revision = Revision.objects.create(adapter=adapter, commit="b" * 40)
    Adapter.objects.filter(pk=adapter.pk).update(head=None, state="checking")
    assert Found(owner, parsed()).facets()["state"] == [("checking", 1)]
    jobs.cancel(Job.objects.create(kind="ingest", revision=revision, owner=owner))
    assert Found(owner, parsed()).facets()["state"] == [("rejected", 1)]


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
    found = Found(create_user("bo"), parsed({"tag": ["nothing"], "samples": ["yes"]}))
    assert found.count() == 0
    assert found[:25] == []
    assert found.facets()["tag"] == [("nothing", 0)]
    assert dict(found.facets()["samples"])["yes"] == 0


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
